"""What a table needs before it can run: data sets, weights, judges; what of it is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scanomaly.backbones.weights import find
from scanomaly.bench.planning import experiment_of, judge_of
from scanomaly.bench.tables.offline import STYLE_SETS
from scanomaly.bench.tables.table import JUDGES, Cell, Table
from scanomaly.config.run import pretrained_networks


@dataclass(frozen=True, slots=True)
class Needs:
    """Of one table. numbers: that are run here; ready: those whose weights are on this machine.

    Their data may not be.
    """

    datasets: tuple[str, ...]
    weights: tuple[str, ...]
    numbers: int
    ready: int
    simulated: bool
    """Whether its data are simulated, so that nothing has to be had."""

    @property
    def runs_offline(self) -> bool:
        """All of it, here and now, without a network."""
        return self.simulated and self.ready == self.numbers


def needs_of(table: Table, place: Callable[[str], Path | None] = find) -> Needs:
    """place: where the weights of a name are."""
    weights: dict[str, bool] = {}
    ready = numbers = 0
    asked: dict[tuple[str | None, tuple[str, ...], str | None], list[str]] = {}
    for _, _, cell in table.experiments():
        key = (cell.preset, cell.options, judge_of(cell))
        if key not in asked:
            asked[key] = _weights(cell, table.seeds[0])
        for name in asked[key]:
            if name not in weights:
                weights[name] = place(name) is not None
        numbers += 1
        ready += all(weights[name] for name in asked[key])
    return Needs(
        datasets=table.datasets,
        weights=tuple(weights),
        numbers=numbers,
        ready=ready,
        simulated=set(table.datasets) <= STYLE_SETS.keys(),
    )


def _weights(cell: Cell, seed: int) -> list[str]:
    """Names of the weights that a number asks for, its judge's too."""
    networks = pretrained_networks(experiment_of(cell, seed, "honest"))
    names = [network.name for network in networks if network.weights is None]
    judge = judge_of(cell)
    return [*dict.fromkeys(names), *([JUDGES[judge]] if judge else [])]
