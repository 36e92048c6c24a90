"""What five_styles.py keeps of an evaluation, and the tables it prints.

Image AUROC: mean over seeds. 95 % intervals resample the patients of every test set; averages over
styles and differences between methods resample the same patients on both sides. They do not cover
what else a repetition would change, such as which K images teach. Pixel average precision: mean
over seeds, from the intervals of its evaluations, taken as independent.

R bootstrap repeats, n images
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from result_tables import head, interval, line
from scanomaly.evaluation import Evaluation
from scanomaly.files import write_text
from scanomaly.metrics import area_under_roc, image_counts
from scanomaly.metrics.intervals import bootstrap_weights, group_indices, image_resampler

REPEATS = 2000
BOUNDS = (0.025, 0.975)
LEARNED, PLAIN = ("mvfa-few", "iqe-few"), ("clip", "patchcore", "patchcore-copies")
ZERO_SHOT = ("mvfa-zero", "iqe-zero")


@dataclass(frozen=True, slots=True)
class Result:
    """Of one method on one test set: (n,) each; pixel_ap: value, low, high, if there are masks."""

    patients: list[str]
    labels: list[bool]
    scores: list[float]
    pixel_ap: tuple[float, float, float] | None

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        rows = sorted(evaluation.rows, key=lambda row: row.id)
        ap = evaluation.pixel["ap"]
        known = ap.value is not None and ap.low is not None and ap.high is not None
        return cls(
            [str(row.patient) for row in rows],
            [bool(row.label) for row in rows],
            [row.score for row in rows],
            (ap.value, ap.low, ap.high) if known else None,  # type: ignore[arg-type]
        )

    @property
    def auroc(self) -> float:
        return float(area_under_roc(image_counts(self.scores, self.labels)))


def write_result(result: Result, file: Path) -> None:
    write_text(file, json.dumps(asdict(result)))


def read_result(file: Path) -> Result | None:
    """None before there is one."""
    return Result(**json.loads(file.read_text())) if file.exists() else None


@dataclass(frozen=True, slots=True)
class Sampled:
    """A value, and the same of every bootstrap repeat (R,); NaN where it was undefined."""

    value: float
    draws: NDArray[np.float64]

    def __sub__(self, other: Sampled) -> Sampled:
        return Sampled(self.value - other.value, self.draws - other.draws)

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = np.nanquantile(self.draws, BOUNDS)
        return float(low), float(high)

    @property
    def cell(self) -> str:
        return interval(self.value, *self.bounds)


def mean(parts: Sequence[Sampled]) -> Sampled:
    draws = np.mean([part.draws for part in parts], axis=0)
    return Sampled(float(np.mean([part.value for part in parts])), draws)


def sampled_auroc(result: Result, seed: int) -> Sampled:
    """seed: of the bootstrap; the same for all methods on one test set."""
    scores, abnormal = np.array(result.scores), np.array(result.labels)
    group = group_indices(result.patients, len(scores))
    weights = bootstrap_weights(int(group.max()) + 1, REPEATS, seed)
    drawn = weights[:, group]  # (R, n)
    usable = (drawn @ abnormal > 0) & (drawn @ ~abnormal > 0)
    draws = np.full(REPEATS, np.nan)
    resample = image_resampler(scores, abnormal, group)
    draws[usable] = area_under_roc(resample(weights[usable].astype(np.float64)))
    return Sampled(result.auroc, draws)


Results = Mapping[tuple[str, int], Result]
"""(data set, seed) -> result."""
Columns = Mapping[str, Sampled]
"""Data set, or AVERAGE -> AUROC."""
AVERAGE = "average"


def aurocs(results: Results, sets: Sequence[str]) -> dict[str, Sampled]:
    """Mean over seeds on each data set, and the mean of those."""
    keys = sorted(results)
    own = {key: sampled_auroc(results[key], number) for number, key in enumerate(keys)}
    found = {name: mean([own[key] for key in keys if key[0] == name]) for name in sets}
    return {**found, AVERAGE: mean(list(found.values()))}


def tables(
    found: Mapping[str, Results], titles: Mapping[str, str], sets: Sequence[str]
) -> Iterator[str]:
    """Markdown. found: method -> results."""
    columns = {method: aurocs(results, sets) for method, results in found.items()}
    names = [*(name.replace("_", " ") for name in sets), AVERAGE]
    yield from ["Image AUROC:", "", *head(["method", *names])]
    for method, own in columns.items():
        yield line([titles[method], *(one.cell for one in own.values())])
    yield from ["", "Difference of image AUROC:", "", *head(["methods", *names])]
    for method in (name for name in LEARNED if name in columns):
        for other in (name for name in PLAIN if name in columns):
            differences = [columns[method][name] - columns[other][name] for name in columns[method]]
            words = f"{titles[method]} - {titles[other]}"
            yield line([words, *(one.cell for one in differences)])
    yield from ["", *_above_chance(columns, titles, sets)]
    yield from ["", "Pixel average precision:", "", *head(["method", *names])]
    for method, results in found.items():
        yield line([titles[method], *_pixel_cells(results, sets)])


def _above_chance(
    columns: Mapping[str, Columns], titles: Mapping[str, str], sets: Sequence[str]
) -> Iterator[str]:
    for method in (name for name in ZERO_SHOT if name in columns):
        above = [name for name in sets if columns[method][name].bounds[0] > 0.5]
        words = ", ".join(above).replace("_", " ") or "none"
        yield f"{titles[method]}: above 0.5 by more than the interval on {len(above)}: {words}."


def _pixel_cells(results: Results, sets: Sequence[str]) -> list[str]:
    """Of each data set, and of all that have masks."""
    found = {
        name: [r.pixel_ap for (own, _), r in sorted(results.items()) if own == name and r.pixel_ap]
        for name in sets
    }
    cells = {name: _averaged(triples) for name, triples in found.items() if triples}
    listed = [interval(*cells.get(name, (None,))) for name in sets]
    return [*listed, interval(*_averaged(list(cells.values()))) if cells else "-"]


def _averaged(triples: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """(value, low, high) of a mean of independent values; deviations add as squares."""
    value = math.fsum(v for v, _, _ in triples) / len(triples)
    down = math.hypot(*(v - low for v, low, _ in triples)) / len(triples)
    up = math.hypot(*(high - v for v, _, high in triples)) / len(triples)
    return value, value - down, value + up
