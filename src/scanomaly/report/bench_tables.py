"""The numbers of a table's report, in words: what its HTML, Markdown and CSV share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scanomaly.report.tables import METRIC_WORDS, percent

if TYPE_CHECKING:
    from scanomaly.bench.breakdown import Miss, StratumLine
    from scanomaly.bench.comparison import ComparedCell, Numbers, RowMean
    from scanomaly.bench.differences import RowDifference
    from scanomaly.bench.findings import Findings

CSV_COLUMNS = (
    *("table", "row", "column", "dataset", "preset", "options", "metric", "protocol", "published"),
    *("published_std", "ours", "std", "low", "high", "seeds", "difference", "within_noise"),
    *("honest", "honest_std", "gap", "missing"),
)
WITHIN_NOISE = "within noise"
VERDICTS: Mapping[bool | None, str] = {None: "", True: "yes", False: "no"}
NOTHING = "\N{EN DASH}"
"""In place of a number that there is not."""
PUBLISHED_ONLY = "published only"
PROTOCOLS = {"paper": "as published", "honest": "honest"}
MINUS = "\N{MINUS SIGN}"
INCOMPLETE = "*"
"""Behind a number or row where some of its runs are missing."""
CELLS_SHOWN = 6
"""Of those that wait for the same thing."""


@dataclass(frozen=True, slots=True)
class CellLine:
    """One number of a table as people read it; empty where there is nothing."""

    row: str
    published: str
    ours: str
    spread: str
    difference: str
    honest: str
    gap: str
    protocol: str
    incomplete: bool
    noise: bool
    """Whether the difference says nothing."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """One metric of a table of our own: each row's cells on the data sets, then their mean."""

    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """A paired difference in words. verdict: clear, within noise, or why neither."""

    rows: str
    column: str
    value: str
    interval: str
    p: str
    verdict: str
    noise: bool


@dataclass(frozen=True, slots=True)
class StratumTable:
    """A data set: its strata, and for each row AUROC and sensitivity in each of them."""

    dataset: str
    strata: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]


def columns(findings: Findings) -> list[tuple[str, list[CellLine]]]:
    """Column by column: all rows that have it."""
    found: dict[str, list[CellLine]] = {name: [] for name in findings.table.columns}
    for cell in findings.cells:
        found[cell.column].append(cell_line(cell))
    return [(name, lines) for name, lines in found.items() if lines]


def cell_line(compared: ComparedCell) -> CellLine:
    digits, ours = compared.digits, compared.ours
    unknown = PUBLISHED_ONLY if compared.cell.preset is None else ""
    return CellLine(
        row=compared.row,
        published=_published(compared.cell.published, compared.cell.published_std) or NOTHING,
        ours=NOTHING if ours is None else f"{ours.mean:.{digits}f}",
        spread="" if ours is None else _spread(ours, digits),
        difference=_signed(compared.difference, digits),
        honest="" if compared.honest is None else f"{compared.honest.mean:.{digits}f}",
        gap=_signed(compared.gap, digits),
        protocol=unknown if ours is None else PROTOCOLS[compared.protocol],
        incomplete=bool(compared.missing),
        noise=compared.within_noise is True,
    )


def matrices(findings: Findings) -> list[Matrix]:
    """Of a table none of whose cells has anything to stand beside; else none."""
    if any(one.cell.published is not None for one in findings.cells):
        return []
    means = {(one.row, one.metric): one for one in findings.means}
    found = []
    for metric in dict.fromkeys(one.cell.metric for one in findings.cells):
        own = [one for one in findings.cells if one.cell.metric == metric]
        datasets = list(dict.fromkeys(one.cell.dataset for one in own))
        rows = []
        for label in dict.fromkeys(one.row for one in own):
            cells = {one.cell.dataset: one for one in own if one.row == label}
            mean = means.get((label, metric))
            shown = [_with_interval(cells.get(name)) for name in datasets]
            of_all = mean is not None and mean.columns == len(datasets)
            rows.append((label, *shown, _mean_of(mean) if of_all else ""))
        found.append(Matrix(_metric(metric), [*datasets, "mean"], rows))
    return found


def _with_interval(compared: ComparedCell | None) -> str:
    if compared is None or compared.ours is None:
        return ""
    ours, digits = compared.ours, compared.digits
    shown = _number(ours.mean, ours.low, ours.high, digits)
    return f"{shown}{INCOMPLETE if compared.missing else ''}"


def _mean_of(mean: RowMean | None) -> str:
    return "" if mean is None else _number(mean.ours, mean.low, mean.high, 1)


def _number(value: float, low: float | None, high: float | None, digits: int) -> str:
    return " ".join(filter(None, [f"{value:.{digits}f}", _interval(low, high, digits)]))


def _published(value: float | None, std: float | None) -> str:
    if value is None:
        return ""
    return f"{value:g}" if std is None else f"{value:g} ± {std:g}"


def _signed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:+.{digits}f}"


def _spread(numbers: Numbers, digits: int) -> str:
    """Such as `± 0.4 [80.1, 82.9] (3 seeds)`."""
    deviation = "" if numbers.std is None else f"± {numbers.std:.{digits}f}"
    words = " ".join(filter(None, [deviation, _interval(numbers.low, numbers.high, digits)]))
    count = len(numbers.seeds)
    seeds = "one seed" if count == 1 else f"{count} seeds"
    return f"{words} ({seeds})" if words else seeds


def _interval(low: float | None, high: float | None, digits: int) -> str:
    """Empty without bounds."""
    if low is None or high is None:
        return ""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def mean_line(mean: RowMean) -> tuple[str, str, str, str, str]:
    """Row, what is averaged, published, ours and how far it is above."""
    return (
        mean.row,
        f"{_metric(mean.metric)}, mean of {mean.columns} columns",
        "" if mean.published is None else f"{mean.published:.2f}",
        _mean_of(mean),
        marked(_signed(mean.difference, 1), mean.within_noise is True),
    )


def marked(difference: str, noise: bool) -> str:
    """A difference, and whether it says nothing."""
    return f"{difference} ({WITHIN_NOISE})" if noise else difference


def _metric(name: str) -> str:
    """`image.auroc` -> `image AUROC`."""
    family, _, metric = name.partition(".")
    return f"{family} {METRIC_WORDS.get(metric, metric.replace('_', ' '))}"


def difference_line(line: RowDifference) -> DifferenceLine:
    estimate, unit, digits = line.difference.estimate, line.unit, line.digits
    bounds = ""
    if estimate.low is not None and estimate.high is not None:
        bounds = f"{unit * estimate.low:+.{digits}f} to {unit * estimate.high:+.{digits}f}"
    words = WITHIN_NOISE if line.within_noise else "clear" if bounds else estimate.why or ""
    return DifferenceLine(
        rows=f"{line.first} {MINUS} {line.second}",
        column=line.column,
        value="" if estimate.value is None else f"{unit * estimate.value:+.{digits}f}",
        interval=bounds,
        p="" if line.difference.p is None else f"{line.difference.p:.3f}",
        verdict="; ".join(part for part in (words, line.note) if part),
        noise=line.within_noise,
    )


def noise_warnings(findings: Findings) -> list[str]:
    """A sentence for each kind of difference that the report shows and that may be chance."""
    warnings = []
    judged = [one.within_noise for one in findings.cells]
    judged += [one.within_noise for one in findings.means]
    known = [noise for noise in judged if noise is not None]
    if any(known):
        warnings.append(
            f"{sum(known)} of {len(known)} differences from published numbers are within noise: "
            "the paper's number lies in our 95 % interval or, where there is none, within the "
            "deviation over our seeds."
        )
    noisy = [line for line in findings.differences if line.within_noise]
    paired = [line for line in findings.differences if line.difference.p is not None]
    if noisy:
        warnings.append(
            f"{len(noisy)} of {len(paired)} paired differences are within noise: their 95 % "
            "interval holds 0, so that other patients alone could turn them."
        )
    return warnings


def size_tables(lines: Sequence[StratumLine]) -> list[StratumTable]:
    """Lesion sizes in percent of the image side, the smallest first."""
    return _stratum_tables(lines, lambda name: float(name.partition("-")[0]), " %")


def kind_tables(lines: Sequence[StratumLine]) -> list[StratumTable]:
    """Kinds of anomaly, by name."""
    return _stratum_tables(lines, str, "")


def _stratum_tables(
    lines: Sequence[StratumLine], order: Callable[[str], Any], unit: str
) -> list[StratumTable]:
    """By data set; a row without a stratum has empty cells there."""
    tables = []
    for dataset in dict.fromkeys(line.dataset for line in lines):
        own = [line for line in lines if line.dataset == dataset]
        counts: dict[str, int] = {}
        for line in own:
            for name, (positives, _) in line.strata.items():
                counts[name] = max(counts.get(name, 0), positives)
        names = sorted(counts, key=order)
        rows = [
            (
                line.row,
                [
                    (percent(found["auroc"]), percent(found["sensitivity_at_95_specificity"]))
                    for found in (line.strata.get(name, (0, _NO_STRATUM))[1] for name in names)
                ],
            )
            for line in own
        ]
        tables.append(
            StratumTable(dataset, [f"{name}{unit} (n = {counts[name]})" for name in names], rows)
        )
    return tables


_NO_STRATUM: dict[str, float | None] = {"auroc": None, "sensitivity_at_95_specificity": None}


def miss_line(miss: Miss) -> tuple[str, ...]:
    """Data set, row, seed, image, patient, score, share of normal images above."""
    return (
        miss.dataset,
        miss.row,
        str(miss.seed),
        miss.id,
        miss.patient or "",
        f"{miss.score:.4g}",
        percent(miss.above),
    )


def missing_lines(findings: Findings) -> list[tuple[str, str]]:
    """What numbers wait for, and which ones they are."""
    waiting: dict[str, list[str]] = {}
    for cell in findings.cells:
        for reason in cell.missing:
            waiting.setdefault(reason, []).append(f"{cell.row}, {cell.column}")
    return [(reason, _listed(names)) for reason, names in waiting.items()]


def _listed(names: Sequence[str]) -> str:
    shown = "; ".join(names[:CELLS_SHOWN])
    more = len(names) - CELLS_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def bench_csv(findings: Findings) -> str:
    """One line for each number of the table, then each mean, at full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in findings.cells:
        cell, ours, honest = one.cell, one.ours, one.honest
        writer.writerow(
            [
                *(findings.table.name, one.row, one.column, cell.dataset, cell.preset),
                *(" ".join((*cell.options, *findings.options)), cell.metric),
                one.protocol if ours else "",
                *(_cell(cell.published), _cell(cell.published_std)),
                *((_cell(ours.mean), _cell(ours.std)) if ours else ("", "")),
                *((_cell(ours.low), _cell(ours.high)) if ours else ("", "")),
                " ".join(map(str, ours.seeds)) if ours else "",
                _cell(one.difference),
                VERDICTS[one.within_noise],
                *((_cell(honest.mean), _cell(honest.std)) if honest else ("", "")),
                _cell(one.gap),
                " | ".join(one.missing),
            ]
        )
    for mean in findings.means:
        line = dict.fromkeys(CSV_COLUMNS, "") | {
            "table": findings.table.name,
            "row": mean.row,
            "column": f"mean of {mean.columns} columns",
            "metric": mean.metric,
            "published": _cell(mean.published),
            "ours": _cell(mean.ours),
            "low": _cell(mean.low),
            "high": _cell(mean.high),
            "difference": _cell(mean.difference),
            "within_noise": VERDICTS[mean.within_noise],
        }
        writer.writerow(line.values())
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
