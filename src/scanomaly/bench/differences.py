"""Paired differences between two rows of a table: the same images, the same resampled patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from scanomaly.bench.comparison import HONEST, PAPER, Results, digits_of, unit_of
from scanomaly.bench.results import FROM_SCORES, JobResult
from scanomaly.errors import ConfigError
from scanomaly.metrics import Estimate, UndefinedMetric
from scanomaly.metrics.families import IMAGE_METRICS
from scanomaly.metrics.paired import (
    Difference,
    Sampled,
    average,
    difference,
    sampled_draws,
    sampled_metric,
)

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class RowDifference:
    """What the first row has more than the second, on one column or on the mean of several.

    difference: in shares. seeds: those that both have. images: of the first seed, scored by both.
    note: what a reader must know of this line.
    """

    first: str
    second: str
    column: str
    metric: str
    difference: Difference
    seeds: tuple[int, ...]
    images: int
    note: str = ""

    @property
    def unit(self) -> float:
        """What a share is multiplied with to be printed."""
        return unit_of(self.metric)

    @property
    def digits(self) -> int:
        """Behind the point, of numbers that people read."""
        return digits_of(self.metric)

    @property
    def within_noise(self) -> bool:
        """Whether other patients alone could turn it."""
        return self.difference.estimate.low is not None and not self.difference.is_clear


Seeds = Mapping[int, tuple[JobResult, JobResult]]
"""Seed -> results of both rows."""
Sides = tuple[Sampled, Sampled]
"""Of both rows, seeds averaged."""


@dataclass
class Differences:
    """Computes them, and keeps what was resampled: a row is in many pairs."""

    results: Results
    _sampled: dict[tuple[int, str, tuple[str, ...]], Sampled] = field(default_factory=dict)

    def of(self, pairs: Sequence[Pair]) -> list[RowDifference]:
        """Every pair on every column that both rows have. Raises ConfigError for unknown rows."""
        labels = [row.label for row in self.results.table.rows]
        for label in (label for pair in pairs for label in pair):
            if label not in labels:
                raise ConfigError(
                    f"{self.results.table.name} has no row {label!r}; there are "
                    f"{'; '.join(labels)}."
                )
        return [line for pair in dict.fromkeys(pairs) for line in self._of_pair(pair)]

    def _of_pair(self, pair: Pair) -> Iterator[RowDifference]:
        cells = {(row, column): cell for row, column, cell in self.results.table.cells()}
        averaged: dict[str, list[tuple[RowDifference, Sides]]] = {}
        for column in self.results.table.columns:
            own = [cells.get((label, column)) for label in pair]
            if own[0] is None or own[1] is None:
                continue
            metric = own[0].metric
            both = self._results(pair, column)
            if not both:
                continue
            images = self._images(both)
            try:
                sides = self._sides(metric, both, images)
            except UndefinedMetric as reason:
                yield _unpaired(pair, column, metric, both, str(reason))
                continue
            line = RowDifference(
                *(*pair, column, metric, difference(*sides), tuple(both)),
                *(len(next(iter(images.values()))), _left_out(both, images)),
            )
            averaged.setdefault(metric, []).append((line, sides))
            yield line
        for metric, parts in averaged.items():
            if len(parts) > 1:
                yield _mean_line(pair, metric, parts)

    def _results(self, pair: Pair, column: str) -> Seeds:
        """Results of both under one protocol: the published one where both have it."""
        for protocol in (PAPER, HONEST):
            first, second = (self.results.of((label, column), protocol) for label in pair)
            both = {seed: (first[seed], second[seed]) for seed in first if seed in second}
            if both:
                return both
        return {}

    def _images(self, both: Seeds) -> dict[int, tuple[str, ...]]:
        """Seed -> ids to compare on, sorted: of both rows, and of every seed where seeds share
        their patients, so that the same ones are drawn under each."""
        by_seed = {seed: [set(one.ids) for one in pair] for seed, pair in both.items()}
        if not self.results.own_patients:
            every = [ids for sides in by_seed.values() for ids in sides]
            by_seed = dict.fromkeys(by_seed, every)
        return {seed: tuple(sorted(set.intersection(*ids))) for seed, ids in by_seed.items()}

    def _sides(self, metric: str, both: Seeds, images: Mapping[int, tuple[str, ...]]) -> Sides:
        """Raises UndefinedMetric where the metric cannot be resampled on the same items."""
        if not metric.startswith(FROM_SCORES):
            _require_same_items(both if self.results.own_patients else _merged(both))
        first, second = (
            average([self._sample(metric, pair[at], images[seed]) for seed, pair in both.items()])
            for at in (0, 1)
        )
        return first, second

    def _sample(self, metric: str, result: JobResult, ids: tuple[str, ...]) -> Sampled:
        key = (id(result), metric, ids)
        if key not in self._sampled:
            own = f"{result.seed} " if self.results.own_patients else ""
            self._sampled[key] = _sampled(metric, result, ids, own)
        return self._sampled[key]


def _merged(both: Seeds) -> Mapping[int, tuple[JobResult, ...]]:
    """All seeds as one."""
    return {0: tuple(result for pair in both.values() for result in pair)}


def _require_same_items(together: Mapping[int, tuple[JobResult, ...]]) -> None:
    """Kept draws are of all items in their order. Raises UndefinedMetric.

    Of answers, the closed ones stand for all: one corpus, one order.
    """
    for results in together.values():
        if len({(one.ids, one.patients) for one in results}) > 1:
            raise UndefinedMetric("not on the same items")


def _left_out(both: Seeds, images: Mapping[int, tuple[str, ...]]) -> str:
    """A note where not all images of a seed are compared."""
    lost = max(len(one.ids) - len(images[seed]) for seed, pair in both.items() for one in pair)
    return f"on the images that all of them scored: {lost} are left out" if lost else ""


def _sampled(metric: str, result: JobResult, ids: tuple[str, ...], whose: str) -> Sampled:
    """The metric on these images of a result. whose: told before every patient's name.

    Raises UndefinedMetric without draws of a metric that scores do not tell.
    """
    at = {name: index for index, name in enumerate(result.ids)}
    chosen = [at[name] for name in ids]
    groups = [whose + (result.patients[i] or result.ids[i]) for i in chosen]
    if not metric.startswith(FROM_SCORES):
        return sampled_draws(result.with_draws(metric), groups)
    labels = [bool(result.labels[i]) for i in chosen]
    scores = [result.scores[i] for i in chosen]
    return sampled_metric(IMAGE_METRICS[metric.removeprefix(FROM_SCORES)], scores, labels, groups)


def _unpaired(pair: Pair, column: str, metric: str, both: Seeds, why: str) -> RowDifference:
    """Of the metrics as they are, each on its own items, without an interval."""
    values: dict[int, float] = {}
    for seed, results in both.items():
        first, second = (result.with_draws(metric).value for result in results)
        if first is not None and second is not None:
            values[seed] = first - second
    found = (
        Estimate(fmean(values.values()), why=f"no interval: {why}")
        if values
        else Estimate.undefined("undefined for one of the two")
    )
    images = min(len(result.ids) for results in both.values() for result in results)
    return RowDifference(*pair, column, metric, Difference(found, None), tuple(values), images)


def _mean_line(
    pair: Pair, metric: str, parts: Sequence[tuple[RowDifference, Sides]]
) -> RowDifference:
    """The mean of the columns of one metric that have intervals."""
    first, second = (average([sides[at] for _, sides in parts]) for at in (0, 1))
    return RowDifference(
        *pair,
        f"mean of {len(parts)} columns, {metric}",
        metric,
        difference(first, second),
        tuple(sorted({seed for line, _ in parts for seed in line.seeds})),
        sum(line.images for line, _ in parts),
    )
