"""The numbers of a report: for machines in full, for people in percent with one decimal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from scanomaly.metrics import Estimate, Stratum

if TYPE_CHECKING:
    from scanomaly.evaluation import Evaluation
    from scanomaly.panels import ScoredImage

METRICS_FORMAT = 1
DISCLAIMER = "Research software, not a medical device."
COLUMNS = ("id", "patient", "label", "score", "p_value", "flagged")

METRIC_WORDS: Mapping[str, str] = {
    "auroc": "AUROC",
    "ap": "Average precision",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "aupro_0.3": "AUPRO up to a false-positive rate of 0.3",
    "dice_best": "Best Dice (its threshold chosen on these images)",
}
PROTOCOL_WORDS: Mapping[str, str] = {
    "honest": "honest",
    "paper": "paper: as published, even where that is not honest",
}


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One metric as people read it, in percent; empty where there is nothing.

    remark: why the value or its interval is missing, or how many bootstrap repeats were lost.
    """

    name: str
    value: str
    low: str
    high: str
    remark: str


@dataclass(frozen=True, slots=True)
class Flags:
    """What the calibrated threshold did: images flagged, of how many, by truth."""

    normal_flagged: int
    normals: int
    abnormal_flagged: int
    abnormals: int

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of normal images that were flagged; None without any."""
        return self.normal_flagged / self.normals if self.normals else None

    @property
    def sensitivity(self) -> float | None:
        """Share of abnormal images that were flagged; None without any."""
        return self.abnormal_flagged / self.abnormals if self.abnormals else None


def flags_of(rows: Iterable[ScoredImage]) -> Flags | None:
    """Counts over labelled rows; None where nothing was calibrated."""
    known = [(row.label, row.flagged) for row in rows if None not in (row.label, row.flagged)]
    if not known:
        return None
    return Flags(
        normal_flagged=known.count((False, True)),
        normals=sum(not label for label, _ in known),
        abnormal_flagged=known.count((True, True)),
        abnormals=sum(bool(label) for label, _ in known),
    )


def percent(share: float | None) -> str:
    """0.9134 -> 91.3; empty for None."""
    return "" if share is None else f"{100 * share:.1f}"


def metric_lines(metrics: Mapping[str, Estimate]) -> list[MetricLine]:
    """The metrics in their order, named in words."""
    return [metric_line(METRIC_WORDS.get(name, name), one) for name, one in metrics.items()]


class GapLine(NamedTuple):
    """One metric under the published protocol and honestly, in percent; empty where undefined."""

    name: str
    published: str
    honest: str
    gap: str


def gap_lines(evaluation: Evaluation) -> list[GapLine]:
    """What the published protocol adds, metric by metric; empty without an honest evaluation."""
    if evaluation.honest is None:
        return []
    lines = []
    for level, ours, theirs in (
        ("Image", evaluation.honest.image, evaluation.image),
        ("Pixel", evaluation.honest.pixel, evaluation.pixel),
    ):
        for name, honest in ours.items():
            published = theirs[name]
            both = honest.value is not None and published.value is not None
            gap = f"{100 * (published.value - honest.value):+.1f}" if both else ""  # type: ignore[operator]
            words = f"{level}: {METRIC_WORDS.get(name, name)}"
            lines.append(GapLine(words, percent(published.value), percent(honest.value), gap))
    return lines


def protocol_words(evaluation: Evaluation) -> str:
    """The protocol of the evaluation, and that of the fit where it is another one."""
    fitted, scored = evaluation.run.protocol, evaluation.protocol
    words = PROTOCOL_WORDS[scored]
    return words if fitted == scored else f"{words}; fitted with the protocol {fitted}"


def count_words(rows: Sequence[ScoredImage]) -> str:
    """Such as `60 (30 normal, 30 abnormal) of 12 patients`."""
    abnormal = sum(row.label is True for row in rows)
    normal = sum(row.label is False for row in rows)
    patients = {row.patient for row in rows}
    whose = "" if None in patients or not patients else f" of {len(patients)} patients"
    return f"{len(rows)} ({normal} normal, {abnormal} abnormal){whose}"


def _strata(strata: Mapping[str, Stratum]) -> dict[str, object]:
    return {
        name: {"positives": stratum.positives, **as_dicts(stratum.metrics)}
        for name, stratum in strata.items()
    }


def metrics_json(evaluation: Evaluation) -> str:
    """The text of metrics.json: every number of the evaluation, without the single images."""
    flags = flags_of(evaluation.rows)
    content: dict[str, object] = {
        "format": METRICS_FORMAT,
        "preset": evaluation.run.preset,
        "method": evaluation.run.method,
        "dataset": evaluation.dataset,
        "protocol": evaluation.protocol,
        "number_of_images": _numbers(evaluation.rows),
        "image": as_dicts(evaluation.image),
        "pixel": as_dicts(evaluation.pixel),
        "by_size": _strata(evaluation.by_size),
        "by_kind": _strata(evaluation.by_kind),
        "pixel_grid": evaluation.pixel_grid,
        "splits": dict(evaluation.splits),
        "threshold": evaluation.threshold,
        "false_alarm_rate": evaluation.false_alarm_rate,
        "flagged": asdict(flags) if flags else None,
        "resampled": evaluation.resampled,
        "seconds_per_image": evaluation.seconds_per_image,
        "weights": list(evaluation.weights),
        "notes": list(evaluation.notes),
    }
    if evaluation.honest is not None:
        content["honest"] = {
            "image": as_dicts(evaluation.honest.image),
            "pixel": as_dicts(evaluation.honest.pixel),
            "splits": dict(evaluation.honest.splits),
        }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def predictions_csv(rows: Iterable[ScoredImage]) -> str:
    """The text of predictions.csv. Nine digits bring a float32 back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(
            [
                row.id,
                row.patient,
                _digit(row.label),
                f"{row.score:.9g}",
                "" if row.p_value is None else f"{row.p_value:.9g}",
                _digit(row.flagged),
            ]
        )
    return text.getvalue()


def metric_line(
    name: str, estimate: Estimate, shown: Callable[[float | None], str] = percent
) -> MetricLine:
    """One metric in words. shown: how its numbers are written; empty for None."""
    remark = (estimate.why or "").removeprefix("undefined: ")
    if estimate.dropped:
        remark = (
            f"{estimate.dropped} of {estimate.repeats} bootstrap repeats lacked a class "
            "and were left out"
        )
    return MetricLine(
        name, shown(estimate.value), shown(estimate.low), shown(estimate.high), remark
    )


def as_dicts(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float | str | None]]:
    return {name: estimate.as_dict() for name, estimate in metrics.items()}


def _numbers(rows: Sequence[ScoredImage]) -> dict[str, int]:
    return {
        "total": len(rows),
        "normal": sum(row.label is False for row in rows),
        "abnormal": sum(row.label is True for row in rows),
    }


def _digit(value: bool | None) -> str:
    return "" if value is None else str(int(value))
