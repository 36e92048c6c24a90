"""Paired differences between two rows of a table: the same images, the same resampled patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from scanomaly.bench.comparison import HONEST, PAPER, Results
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
    def within_noise(self) -> bool:
        """Whether other patients alone could turn it."""
        return self.difference.estimate.low is not None and not self.difference.is_clear


@dataclass
class Differences:
    """Computes them, and keeps what was resampled: a row is in many pairs."""

    results: Results
    _sampled: dict[tuple[int, str, tuple[str, ...]], Sampled | None] = field(default_factory=dict)

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
        averaged: dict[str, list[tuple[Sampled, Sampled]]] = {}
        lines: list[RowDifference] = []
        for column in self.results.table.columns:
            own = [cells.get((label, column)) for label in pair]
            if own[0] is None or own[1] is None:
                continue
            metric = own[0].metric
            both = self._results(pair, column)
            if not both:
                continue
            sides = [self._samples(metric, both, column) for column in (0, 1)]
            lines.append(self._line(pair, column, metric, both, sides))
            if all(sides):
                averaged.setdefault(metric, []).append((average(sides[0]), average(sides[1])))
        yield from lines
        for metric, parts in averaged.items():
            if len(parts) > 1:
                yield _mean_line(pair, metric, parts, lines)

    def _results(self, pair: Pair, column: str) -> dict[int, tuple[JobResult, JobResult]]:
        """Seed -> results of both under one protocol: the published one where both have it."""
        for protocol in (PAPER, HONEST):
            first, second = (self.results.of((label, column), protocol) for label in pair)
            both = {seed: (first[seed], second[seed]) for seed in first if seed in second}
            if both:
                return both
        return {}

    def _samples(
        self, metric: str, both: Mapping[int, tuple[JobResult, JobResult]], side: int
    ) -> list[Sampled]:
        """Of each seed; empty where the metric cannot be resampled from what results keep."""
        found = [self._sample(metric, pair[side], pair[1 - side]) for pair in both.values()]
        return [one for one in found if one is not None] if None not in found else []

    def _sample(self, metric: str, result: JobResult, other: JobResult) -> Sampled | None:
        """Of the images that another result has too; kept draws are of all of them or none."""
        ids = _common((result, other))
        if not metric.startswith(FROM_SCORES) and _items(result) != _items(other):
            return None
        key = (id(result), metric, ids)
        if key not in self._sampled:
            own = f"{result.seed} " if self.results.table.own_patients else ""
            self._sampled[key] = _sampled(metric, result, ids, own)
        return self._sampled[key]

    def _line(
        self,
        pair: Pair,
        column: str,
        metric: str,
        both: Mapping[int, tuple[JobResult, JobResult]],
        sides: Sequence[Sequence[Sampled]],
    ) -> RowDifference:
        images = [_common(one) for one in both.values()]
        lost = max(
            len(result.ids) - len(ids)
            for one, ids in zip(both.values(), images, strict=True)
            for result in one
        )
        return RowDifference(
            *pair,
            column,
            metric,
            difference(average(sides[0]), average(sides[1]))
            if all(sides)
            else _plain(metric, both),
            tuple(both),
            len(images[0]),
            f"on the images that both scored: {lost} are left out" if lost else "",
        )


def _common(pair: tuple[JobResult, JobResult]) -> tuple[str, ...]:
    """Ids that both scored, sorted."""
    first, second = pair
    if first.ids == second.ids:
        return tuple(sorted(first.ids))
    return tuple(sorted({*first.ids} & {*second.ids}))


def _items(result: JobResult) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    return result.ids, result.patients


def _sampled(metric: str, result: JobResult, ids: tuple[str, ...], whose: str) -> Sampled | None:
    """The metric on these images of a result. whose: told before every patient's name."""
    at = {name: index for index, name in enumerate(result.ids)}
    chosen = [at[name] for name in ids]
    groups = [whose + (result.patients[i] or result.ids[i]) for i in chosen]
    if not metric.startswith(FROM_SCORES):
        return sampled_draws(result.with_draws(metric), groups)
    labels = [bool(result.labels[i]) for i in chosen]
    scores = [result.scores[i] for i in chosen]
    return sampled_metric(IMAGE_METRICS[metric.removeprefix(FROM_SCORES)], scores, labels, groups)


def _plain(metric: str, both: Mapping[int, tuple[JobResult, JobResult]]) -> Difference:
    """Of the metrics themselves, where nothing is kept to resample them."""
    values = [
        _value(a, metric) - _value(b, metric) for a, b in both.values() if _known(a, b, metric)
    ]
    if not values:
        return Difference(Estimate.undefined("undefined for one of the two"), None)
    why = "not both kept their bootstrap draws of the same items: no interval"
    return Difference(Estimate(fmean(values), why=why), None)


def _known(first: JobResult, second: JobResult, metric: str) -> bool:
    return all(
        metric in one.metrics and one.metrics[metric].value is not None for one in (first, second)
    )


def _value(result: JobResult, metric: str) -> float:
    value = result.metrics[metric].value
    if value is None:
        raise UndefinedMetric(metric)
    return value


def _mean_line(
    pair: Pair,
    metric: str,
    parts: Sequence[tuple[Sampled, Sampled]],
    lines: Sequence[RowDifference],
) -> RowDifference:
    """The mean of the columns of one metric."""
    own = [line for line in lines if line.metric == metric]
    first, second = (average([part[side] for part in parts]) for side in (0, 1))
    return RowDifference(
        *pair,
        f"mean of {len(parts)} columns",
        metric,
        difference(first, second),
        tuple(sorted({seed for line in own for seed in line.seeds})),
        sum(line.images for line in own),
    )
