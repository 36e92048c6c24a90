"""Where a table's methods fail: by size and kind of lesion, and the images missed worst."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from scanomaly.bench.comparison import Results
from scanomaly.bench.results import JobResult
from scanomaly.metrics import Stratum

StrataOf = Callable[[JobResult], Mapping[str, Stratum]]

STRATUM_METRICS = ("auroc", "sensitivity_at_95_specificity")
WORST = 3
"""Misses of each row on each data set."""


@dataclass(frozen=True, slots=True)
class StratumLine:
    """One row on one data set: stratum -> how many, and each metric's mean over seeds."""

    row: str
    dataset: str
    strata: Mapping[str, tuple[int, Mapping[str, float | None]]]


@dataclass(frozen=True, slots=True)
class Miss:
    """An abnormal image that many normal ones outdo. above: their share, 0 to 1."""

    row: str
    dataset: str
    seed: int
    id: str
    patient: str | None
    score: float
    above: float


def _image_results(results: Results) -> Iterator[tuple[str, str, Mapping[int, JobResult]]]:
    """(row, data set, seed -> result) of detectors, once for each row and data set."""
    seen: set[tuple[str, str]] = set()
    for row, column, cell in results.table.cells():
        _, found = results.chosen((row, column))
        if (
            found
            and cell.metric.startswith(("image.", "pixel."))
            and (row, cell.dataset) not in seen
        ):
            seen.add((row, cell.dataset))
            yield row, cell.dataset, found


def size_lines(results: Results) -> list[StratumLine]:
    """Of all rows on data sets with masks."""
    return _stratum_lines(results, lambda one: one.by_size)


def kind_lines(results: Results) -> list[StratumLine]:
    """Of all rows on data sets that name the kinds of their anomalies."""
    return _stratum_lines(results, lambda one: one.by_kind)


def _stratum_lines(results: Results, strata_of: StrataOf) -> list[StratumLine]:
    lines = []
    for row, dataset, found in _image_results(results):
        each = [strata_of(one) for one in found.values()]
        names = dict.fromkeys(name for strata in each for name in strata)
        strata = {name: _mean_of_seeds(name, each) for name in names}
        strata = {name: line for name, line in strata.items() if line[0]}
        if strata:
            lines.append(StratumLine(row, dataset, strata))
    return lines


def _mean_of_seeds(
    name: str, each: Sequence[Mapping[str, Stratum]]
) -> tuple[int, Mapping[str, float | None]]:
    strata = [strata[name] for strata in each if name in strata]
    metrics: dict[str, float | None] = {}
    for metric in STRATUM_METRICS:
        known = [stratum.metrics.get(metric) for stratum in strata]
        values = [one.value for one in known if one is not None and one.value is not None]
        metrics[metric] = fmean(values) if values else None
    return max(stratum.positives for stratum in strata), metrics


def worst_misses(results: Results) -> list[Miss]:
    """Of each row and data set the WORST abnormal images, each once: most normal ones above."""
    misses = []
    for row, dataset, found in _image_results(results):
        worst: dict[str, Miss] = {}
        for seed, result in found.items():
            for miss in _misses(row, dataset, seed, result):
                if miss.id not in worst or miss.above > worst[miss.id].above:
                    worst[miss.id] = miss
        ordered = sorted(worst.values(), key=lambda miss: (-miss.above, miss.id))
        misses += ordered[:WORST]
    return misses


def _misses(row: str, dataset: str, seed: int, result: JobResult) -> Iterator[Miss]:
    """The worst ones of one run; an image that no normal one outdoes is no miss."""
    scores = np.array(result.scores)
    abnormal = np.array([label is True for label in result.labels], dtype=bool)
    normal = np.sort(scores[[label is False for label in result.labels]])
    if not len(normal) or not abnormal.any():
        return
    at = np.flatnonzero(abnormal)
    above = 1 - np.searchsorted(normal, scores[at], "left") / len(normal)
    for index in np.lexsort((at, -above))[:WORST]:
        if above[index] > 0:
            image = int(at[index])
            yield Miss(
                row,
                dataset,
                seed,
                result.ids[image],
                result.patients[image],
                result.scores[image],
                float(above[index]),
            )
