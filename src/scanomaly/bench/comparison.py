"""Finished jobs beside a table: published, ours, honest, gaps, and what is still missing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from scanomaly.bench.execution import FAILURE_FILE
from scanomaly.bench.jobs import Plan, PlannedCell, load_plan, runs_folder
from scanomaly.bench.results import JobResult, read_result
from scanomaly.bench.sources import SOURCES
from scanomaly.bench.tables.table import PLAIN, Cell, Table
from scanomaly.errors import ConfigError
from scanomaly.metrics import Estimate

HONEST, PAPER = "honest", "paper"
Place = tuple[str, str]
"""Row, column."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """One number of one or several seeds, in the units of the table (percent, CIDEr as it is).

    std: over seeds, None for one. low, high: the interval of the mean, if every seed has one: for
    seeds that share their patients the mean of the intervals. values: of each seed.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ComparedCell:
    """One number of a table beside ours.

    ours: under the published protocol where that was run (protocol: "paper"), else honest. honest:
    of honest runs; without any, of the last epoch of the published protocol's own. gap: what the
    published protocol adds. missing: why numbers are not there, and what to do.
    """

    row: str
    column: str
    cell: Cell
    ours: Numbers | None
    protocol: str
    honest: Numbers | None
    missing: tuple[str, ...]

    @property
    def digits(self) -> int:
        """Behind the point, of numbers that people read."""
        return digits_of(self.cell.metric)

    @property
    def difference(self) -> float | None:
        """Ours above the published number."""
        if self.ours is None or self.cell.published is None:
            return None
        return self.ours.mean - self.cell.published

    @property
    def within_noise(self) -> bool | None:
        """Whether other patients, else other seeds, alone could make the difference.

        The published number lies in our interval, or, without one, within one standard deviation
        over our seeds; None where we know neither.
        """
        ours, difference = self.ours, self.difference
        if ours is None or difference is None:
            return None
        if ours.low is not None and ours.high is not None:
            return ours.low <= ours.mean - difference <= ours.high
        return None if ours.std is None else abs(difference) <= ours.std

    @property
    def gap(self) -> float | None:
        """Over the seeds that have both."""
        if self.ours is None or self.honest is None or self.protocol == HONEST:
            return None
        honest = dict(zip(self.honest.seeds, self.honest.values, strict=True))
        pairs = zip(self.ours.seeds, self.ours.values, strict=True)
        gaps = [value - honest[seed] for seed, value in pairs if seed in honest]
        return fmean(gaps) if gaps else None


Found = Mapping[tuple[str, str, str], Mapping[int, JobResult]]
"""(row, column, protocol) -> seed -> result."""


@dataclass(frozen=True, slots=True)
class Results:
    """What is known of a table: its plan, and the result of every finished job.

    unfinished: digest -> why there is no result. own_patients: whether every seed was run on
    patients of its own: as the table has it, unless seeds were given the same data.
    """

    table: Table
    plan: Plan
    finished: Mapping[str, JobResult]
    unfinished: Mapping[str, str]
    found: Found
    own_patients: bool

    def of(self, place: Place, protocol: str) -> Mapping[int, JobResult]:
        """Seed -> result of one number of the table, by seed."""
        return self.found.get((*place, protocol), {})

    def chosen(self, place: Place) -> tuple[str, Mapping[int, JobResult]]:
        """The protocol that stands beside the published numbers, and its results."""
        published = self.of(place, PAPER)
        return (PAPER, published) if published else (HONEST, self.of(place, HONEST))


def read_results(out: Path, table: Table) -> Results:
    """Everything that a bench folder has of a table.

    Raises ConfigError without a plan of it, and CheckpointError for damaged files.
    """
    plan = load_plan(out, table.name)
    if plan is None:
        raise ConfigError(
            f"{out}: expected runs of {table.name}, found none; `scanomaly bench run {table.name} "
            f"--out {out}` makes them."
        )
    finished: dict[str, JobResult] = {}
    unfinished: dict[str, str] = {}
    for digest in dict.fromkeys(cell.digest for cell in plan.cells if cell.digest is not None):
        folder = runs_folder(out, digest)
        result = read_result(folder)
        if result is None:
            unfinished[digest] = _why_unfinished(folder, table.name)
        else:
            finished[digest] = result
    own_patients = table.own_patients and not _share_data(plan)
    return Results(table, plan, finished, unfinished, _by_place(plan, finished), own_patients)


def _share_data(plan: Plan) -> bool:
    """Whether two seeds of a number read the same data."""
    read = [(c.row, c.column, c.protocol, c.data) for c in plan.cells if c.digest is not None]
    return len(set(read)) < len(read)


def _by_place(plan: Plan, finished: Mapping[str, JobResult]) -> Found:
    found: dict[tuple[str, str, str], dict[int, JobResult]] = {}
    for cell in sorted(plan.cells, key=lambda cell: cell.seed):
        if cell.digest is not None and cell.digest in finished:
            place = (cell.row, cell.column, cell.protocol)
            found.setdefault(place, {})[cell.seed] = finished[cell.digest]
    return found


def _why_unfinished(folder: Path, table: str) -> str:
    again = f"`scanomaly bench run {table}` goes on"
    file = folder / FAILURE_FILE
    try:
        message = str(json.loads(file.read_text(encoding="utf-8"))["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"not finished; {again}."
    return f"failed: {message.rstrip('.')}; see {file}; {again} once that is mended."


def compare(results: Results) -> list[ComparedCell]:
    """Every cell of the table in its order."""
    planned: dict[Place, list[PlannedCell]] = {}
    for cell in results.plan.cells:
        planned.setdefault((cell.row, cell.column), []).append(cell)
    return [
        _compared(results, (row, column), cell, planned.get((row, column), []))
        for row, column, cell in results.table.cells()
    ]


def _compared(
    results: Results, place: Place, cell: Cell, planned: Sequence[PlannedCell]
) -> ComparedCell:
    metric, published = cell.metric, results.of(place, PAPER)
    apart = results.own_patients
    own = _numbers(metric, {s: r.metrics for s, r in results.of(place, HONEST).items()}, apart)
    as_published = _numbers(metric, {s: r.metrics for s, r in published.items()}, apart)
    honest = own or _numbers(metric, {s: r.honest for s, r in published.items()}, apart)
    return ComparedCell(
        *place,
        cell,
        ours=as_published or honest,
        protocol=PAPER if as_published else HONEST,
        honest=honest,
        missing=() if cell.preset is None else _missing(results, metric, planned),
    )


def _missing(results: Results, metric: str, planned: Sequence[PlannedCell]) -> tuple[str, ...]:
    """Each reason once."""
    if not planned:
        again = f"`scanomaly bench run {results.table.name}` once more plans it"
        return (f"not planned: the table has changed since; {again}.",)
    reasons: list[str] = []
    for one in planned:
        if one.digest is None:
            reasons += one.missing
        elif one.digest in results.unfinished:
            reasons.append(results.unfinished[one.digest])
        else:
            reasons.append(_why_undefined(results.finished[one.digest].metrics.get(metric)))
    return tuple(dict.fromkeys(reason for reason in reasons if reason))


def _why_undefined(estimate: Estimate | None) -> str:
    if estimate is None:
        return "the evaluation has no such metric."
    return "" if estimate.value is not None else f"undefined: {estimate.why}."


def _numbers(
    metric: str, by_seed: Mapping[int, Mapping[str, Estimate]], independent: bool
) -> Numbers | None:
    """The metric of all seeds that have a value of it."""
    known = {seed: metrics[metric] for seed, metrics in by_seed.items() if metric in metrics}
    unit = unit_of(metric)
    values = {s: unit * float(one.value) for s, one in known.items() if one.value is not None}
    if not values:
        return None
    parts = [(value, *_bounds(known[seed], unit)) for seed, value in values.items()]
    low, high = interval_of_mean(parts, independent)
    return Numbers(
        mean=fmean(values.values()),
        std=stdev(values.values()) if len(values) > 1 else None,
        low=low,
        high=high,
        seeds=tuple(values),
        values=tuple(values.values()),
    )


Bounds = tuple[float, float] | tuple[None, None]


def _bounds(estimate: Estimate, unit: float) -> Bounds:
    if estimate.low is None or estimate.high is None:
        return None, None
    return unit * estimate.low, unit * estimate.high


def interval_of_mean(
    parts: Sequence[tuple[float, float | None, float | None]], independent: bool
) -> Bounds:
    """Of the mean of values with their bounds (value, low, high); none unless all have them.

    Deviations of independent values add as squares; of others we know no better than their mean.
    """
    known = [
        (value, low, high) for value, low, high in parts if low is not None and high is not None
    ]
    if len(known) < len(parts):
        return None, None
    size = math.hypot if independent else lambda *deviations: math.fsum(deviations)
    mean = fmean(value for value, _, _ in known)
    down = size(*(value - low for value, low, _ in known)) / len(known)
    up = size(*(high - value for value, _, high in known)) / len(known)
    return mean - down, mean + up


def unit_of(metric: str) -> float:
    """What a metric is multiplied with to stand beside published numbers."""
    return 1.0 if metric in PLAIN else 100.0


def digits_of(metric: str) -> int:
    """Behind the point, of a metric in its unit."""
    return 2 if metric in PLAIN else 1


@dataclass(frozen=True, slots=True)
class RowMean:
    """A row's mean over the columns of one metric: published and ours on the same columns.

    low, high: its interval, as columns are of different patients; None where one has none.
    """

    row: str
    metric: str
    columns: int
    published: float | None
    ours: float
    low: float | None = None
    high: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours above the published number."""
        return None if self.published is None else self.ours - self.published

    @property
    def within_noise(self) -> bool | None:
        """Whether other patients alone could make the difference; None where we do not know."""
        if self.published is None or self.low is None or self.high is None:
            return None
        return self.low <= self.published <= self.high


def row_means(table: Table, cells: Iterable[ComparedCell]) -> list[RowMean]:
    """Of rows with numbers in at least two columns of a metric, and in all that have one."""
    printed = {row.label: row.means for row in table.rows}
    groups: dict[tuple[str, str], list[ComparedCell]] = {}
    for cell in cells:
        groups.setdefault((cell.row, cell.cell.metric), []).append(cell)
    means = []
    for (row, metric), own in groups.items():
        ours = [cell.ours for cell in own if cell.ours is not None]
        published = [c.cell.published for c in own if c.cell.published is not None]
        if len(own) > 1 and len(ours) == len(own):
            theirs = fmean(published) if len(published) == len(own) else printed[row].get(metric)
            low, high = interval_of_mean([(one.mean, one.low, one.high) for one in ours], True)
            mean = fmean(one.mean for one in ours)
            means.append(RowMean(row, metric, len(own), theirs, mean, low, high))
    return means


def licences(results: Results) -> list[str]:
    """Of the weights that the finished jobs used, and of the data sets."""
    weights = dict.fromkeys(line for one in results.finished.values() for line in one.weights)
    used = dict.fromkeys(one.dataset for one in results.finished.values())
    data = [f"data set {name}: {SOURCES[name].licence}" for name in used if name in SOURCES]
    return [*weights, *data]


def run_notes(results: Results) -> list[str]:
    """What evaluations say a reader must know: each note once, with how many runs say it."""
    counts: dict[str, int] = {}
    for one in results.finished.values():
        for note in one.notes:
            counts[note] = counts.get(note, 0) + 1
    return [f"{note} ({count} of {len(results.finished)} runs)" for note, count in counts.items()]
