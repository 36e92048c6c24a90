"""All that a report of a table says, from what a bench folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scanomaly.bench.breakdown import Miss, StratumLine, kind_lines, size_lines, worst_misses
from scanomaly.bench.comparison import (
    ComparedCell,
    RowMean,
    compare,
    licences,
    read_results,
    row_means,
    run_notes,
)
from scanomaly.bench.differences import Differences, Pair, RowDifference
from scanomaly.bench.tables.offline import STYLE_SETS
from scanomaly.bench.tables.table import Table


@dataclass(frozen=True, slots=True)
class Findings:
    """A table with our numbers. finished, planned: jobs; seconds: of the finished ones together.

    options: of --set, which make the runs other ones than the table's. simulated: whether its data
    are made by the bench. own_patients: whether every seed has its own. notes: what evaluations
    say.
    """

    table: Table
    options: tuple[str, ...]
    simulated: bool
    own_patients: bool
    cells: tuple[ComparedCell, ...]
    means: tuple[RowMean, ...]
    differences: tuple[RowDifference, ...]
    sizes: tuple[StratumLine, ...]
    kinds: tuple[StratumLine, ...]
    misses: tuple[Miss, ...]
    finished: int
    planned: int
    seconds: float
    notes: tuple[str, ...]
    licences: tuple[str, ...]


def findings(out: Path, table: Table, pairs: Sequence[Pair] = ()) -> Findings:
    """pairs: further rows to be compared, by their labels.

    Raises ConfigError without a plan of the table and for unknown rows, CheckpointError for damaged
    files.
    """
    results = read_results(out, table)
    cells = compare(results)
    return Findings(
        table=table,
        options=results.plan.options,
        simulated=set(table.datasets) <= STYLE_SETS.keys(),
        own_patients=results.own_patients,
        cells=tuple(cells),
        means=tuple(row_means(table, cells)),
        differences=tuple(Differences(results).of((*table.compare, *pairs))),
        sizes=tuple(size_lines(results)),
        kinds=tuple(kind_lines(results)),
        misses=tuple(worst_misses(results)),
        finished=len(results.finished),
        planned=len(results.finished) + len(results.unfinished),
        seconds=sum(one.seconds for one in results.finished.values()),
        notes=tuple(run_notes(results)),
        licences=tuple(licences(results)),
    )
