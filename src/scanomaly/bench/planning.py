"""The cells of a table to jobs, and what is missing for some of them. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from scanomaly.backbones.weights import locate, weight_file
from scanomaly.bench.execution import Task, read_corpus_of
from scanomaly.bench.fingerprints import Fingerprints
from scanomaly.bench.jobs import Contents, Job, Plan, PlannedCell, Protocol, load_plan, runs_folder
from scanomaly.bench.sources import how_to_get
from scanomaly.bench.tables.table import JUDGES, SEED_PLACE, Cell, Table
from scanomaly.config.run import Run, pretrained_networks
from scanomaly.config.vqa import VqaRun
from scanomaly.data.manifest import (
    Manifest,
    find_sets,
    is_called,
    read_manifest,
    read_manifests,
)
from scanomaly.data.mivqa import Corpus
from scanomaly.data.splits import may_teach
from scanomaly.errors import ConfigError, DataError, WeightsError
from scanomaly.presets import VQA_PRESETS, preset, vqa_preset
from scanomaly.warm_starts import warm_start_file

AnyRun = TypeVar("AnyRun", Run, VqaRun)
Found = TypeVar("Found")
Place = tuple[str, str]
"""Row, column."""
OTHERS = "the others, which teach it"
PUBLISHED_DECODING = ("config.reference_decoding=true",)
"""What the published protocol of an answerer is: greedy, whatever the paper says."""
JUDGED = "nli"
"""The family of metrics for which a judge is asked: nli.JUDGE.RELATION."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What someone asks of a table. data: seed -> its folder of data sets.

    options: as of --set, for every cell. weights_are_here: False where other machines compute, and
    may have what is missing here.
    """

    table: Table
    seeds: tuple[int, ...]
    protocols: tuple[Protocol, ...]
    data: Callable[[int], Path]
    options: tuple[str, ...] = ()
    device: str = "auto"
    weights_are_here: bool = True


@dataclass(frozen=True, slots=True)
class Planned:
    """plan: written to the bench folder. tasks: each job once, in the order of the table."""

    plan: Plan
    tasks: tuple[Task, ...]

    @property
    def missing(self) -> dict[str, int]:
        """What is missing and how to get it -> how many numbers of the table wait for it."""
        waiting: dict[str, set[Place]] = {}
        for cell in self.plan.cells:
            for reason in cell.missing:
                waiting.setdefault(reason, set()).add((cell.row, cell.column))
        return {reason: len(places) for reason, places in waiting.items()}

    @property
    def lacking(self) -> int:
        """Numbers of the table that wait for something."""
        return len({(cell.row, cell.column) for cell in self.plan.cells if cell.missing})


def plan_table(wanted: Wanted, out: Path) -> Planned:
    """Decide every job of a table, and write the plan and each job into a bench folder.

    Data sets and weights that are missing leave their cells without a job. Raises ConfigError for
    options that a preset does not take, and DataError for a folder of data that is not there.
    """
    planner = _Planner(wanted, out, Fingerprints(out))
    cells = [
        planner.planned(row, column, cell, seed, protocol)
        for seed in wanted.seeds
        for protocol in wanted.protocols
        for row, column, cell in wanted.table.experiments()
    ]
    for task in planner.tasks.values():
        planner.jobs[task.digest].save(task.folder)
    plan = Plan(wanted.table.name, wanted.options, tuple(cells))
    plan.joined(load_plan(out, wanted.table.name)).save(out)
    return Planned(plan, tuple(planner.tasks.values()))


class MissingError(Exception):
    """What a cell needs is not here. reasons: what, and how to get it."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


def _all_of(parts: Iterable[Callable[[], Found]]) -> list[Found]:
    """What every part gives. Raises MissingError with the reasons of all that are missing."""
    found: list[Found] = []
    reasons: list[str] = []
    for part in parts:
        try:
            found.append(part())
        except MissingError as missing:
            reasons += missing.reasons
    if reasons:
        raise MissingError(*dict.fromkeys(reasons))
    return found


@dataclass
class _Planner:
    """Keeps what many cells share: data sets read, fingerprints, jobs."""

    wanted: Wanted
    out: Path
    fingerprints: Fingerprints
    jobs: dict[str, Job] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    _found: dict[tuple[Path, str], str | DataError] = field(default_factory=dict)
    _sets: dict[Path, list[Manifest]] = field(default_factory=dict)

    def planned(
        self, row: str, column: str, cell: Cell, seed: int, protocol: Protocol
    ) -> PlannedCell:
        experiment = experiment_of(cell, seed, protocol, self.wanted.options)
        data = self.wanted.data(seed)
        if not data.exists():
            raise DataError(f"{data}: expected a folder of data sets, found nothing; check --data.")
        try:
            contents = self._needs(experiment, cell, data)
        except MissingError as missing:
            return PlannedCell(row, column, seed, protocol, None, missing.reasons)
        judges = self._judges(cell) if isinstance(experiment, VqaRun) else ()
        job = Job.of(experiment, cell.dataset, protocol, contents, judges)
        if job.digest not in self.jobs:
            folder = runs_folder(self.out, job.digest)
            words = f"{row} on {cell.dataset}, seed {seed}, {protocol}"
            self.jobs[job.digest] = job
            self.tasks[job.digest] = Task(job.digest, folder, data, words, self.wanted.device)
        return PlannedCell(row, column, seed, protocol, job.digest, data=contents.data)

    def _needs(self, experiment: Run | VqaRun, cell: Cell, data: Path) -> Contents:
        """What the cell's job reads. Raises MissingError, for the judge of the cell too."""
        weights, fingerprint, _ = _all_of(
            (
                lambda: self._weights(experiment),
                lambda: self._fingerprint(experiment, cell.dataset, data),
                lambda: self._own_judge(cell),
            )
        )
        return Contents(fingerprint, weights)

    def _weights(self, experiment: Run | VqaRun) -> str:
        """Fingerprint of what the experiment begins with. Raises MissingError."""
        try:
            return self.fingerprints.of_weights(weights_of(experiment))
        except MissingError:
            if self.wanted.weights_are_here:
                raise
            return ""

    def _own_judge(self, cell: Cell) -> str:
        """Empty where it has none. Raises MissingError."""
        judge = judge_of(cell)
        if judge is not None and self.wanted.weights_are_here:
            require_judge(judge)
        return judge or ""

    def _judges(self, cell: Cell) -> tuple[str, ...]:
        """The judges of all cells of this cell's experiment, so that one job serves them all."""
        asked = {judge_of(cell)} | {
            judge_of(other)
            for _, _, other in self.wanted.table.experiments()
            if _experiment_words(other) == _experiment_words(cell)
        }
        names = tuple(sorted(name for name in asked if name is not None))
        if not self.wanted.weights_are_here:
            return names
        return tuple(name for name in names if _is_here(name))

    def _fingerprint(self, experiment: Run | VqaRun, dataset: str, data: Path) -> str:
        """Of the data that the experiment reads. Raises MissingError naming every missing set."""
        if isinstance(experiment, VqaRun) or experiment.data.supervision != "zero_shot":
            return self._of_set(experiment, dataset, data)
        sets = self.wanted.table.datasets
        _all_of(partial(self._of_set, experiment, one, data) for one in sets)
        return self._of_sets(dataset, data)

    def _of_set(self, experiment: Run | VqaRun, dataset: str, data: Path) -> str:
        def read() -> str:
            if isinstance(experiment, VqaRun):
                return self.fingerprints.of_corpus(_corpus(data, dataset))
            return self.fingerprints.of_manifests([_manifest(data, dataset)])

        return self._once(data, dataset, read)

    def _of_sets(self, target: str, data: Path) -> str:
        """Zero-shot: of all sets together that teach or are scored."""

        def read() -> str:
            if data not in self._sets:
                self._sets[data] = read_manifests(data)
            sets = self._sets[data]
            return self.fingerprints.of_manifests(m for m in sets if may_teach(m.dataset, target))

        return self._once(data, f"{target}, and {OTHERS}", read)

    def _once(self, data: Path, dataset: str, read: Callable[[], str]) -> str:
        place = (data, dataset)
        if place not in self._found:
            try:
                self._found[place] = read()
            except DataError as error:
                self._found[place] = error
        found = self._found[place]
        if isinstance(found, DataError):
            reason = str(found).rstrip(".")
            raise MissingError(f"data set {dataset}: {reason}; {how_to_get(dataset)}") from found
        return found


def _manifest(data: Path, dataset: str) -> Manifest:
    """One of a folder of sets. Raises DataError where the path itself is another set."""
    name = data.resolve().stem if data.is_file() else data.resolve().name
    if find_sets(data) == [data] and not is_called(name, dataset):
        raise DataError(
            f"{data}: expected a folder of data sets, got one set alone, '{name}'; give the folder "
            "above it."
        )
    return read_manifest(data, dataset)


def _corpus(data: Path, dataset: str) -> Corpus:
    return read_corpus_of(data, dataset)


def experiment_of(
    cell: Cell, seed: int, protocol: Protocol, options: Sequence[str] = ()
) -> Run | VqaRun:
    """A cell's experiment, with everything decided. Raises ConfigError naming the preset."""
    assert cell.preset is not None  # experiments alone are planned
    assignments = [f"fit.seed={seed}"]
    assignments += [option.replace(SEED_PLACE, str(seed)) for option in (*cell.options, *options)]
    if cell.preset in VQA_PRESETS:
        published = PUBLISHED_DECODING if protocol == "paper" else ()
        return _with(vqa_preset(cell.preset), [*published, *assignments])
    run = _with(preset(cell.preset), assignments)
    if run.data.supervision == "zero_shot" and run.data.target is None:
        run = _with(run, [f"data.target={json.dumps(cell.dataset)}"])
    return run.under(protocol)


def _with(run: AnyRun, assignments: Sequence[str]) -> AnyRun:
    try:
        return run.with_overrides(assignments)
    except ConfigError as error:
        raise ConfigError(f"preset {run.preset}: {error}") from error


def _experiment_words(cell: Cell) -> tuple[str | None, str, tuple[str, ...]]:
    return cell.preset, cell.dataset, cell.options


def judge_of(cell: Cell) -> str | None:
    """The judge that a cell's metric asks for, by its short name or path."""
    family, _, rest = cell.metric.partition(".")
    return rest.rpartition(".")[0] if family == JUDGED else None


def weights_of(experiment: Run | VqaRun) -> list[Path]:
    """The weight files that an experiment begins with.

    Raises MissingError, which says how to get them, where they are not here.
    """
    start = experiment.fit.warm_start
    asked = dict.fromkeys((n.name, n.weights) for n in pretrained_networks(experiment))
    looks = [partial(_weight_file, name, place) for name, place in asked]
    if start is not None:
        looks.append(partial(warm_start_file, start))
    return _all_of(partial(_found, look) for look in looks)


def _weight_file(name: str, place: str | None = None) -> Path:
    return weight_file(locate(name, place), name)


def _found(look: Callable[[], Found]) -> Found:
    """What `look` finds. Raises MissingError in the place of its errors."""
    try:
        return look()
    except (WeightsError, ConfigError) as error:
        raise MissingError(str(error)) from error


def require_judge(name: str) -> None:
    """Raises MissingError where a model that judges answers is not here."""
    _found(partial(locate, JUDGES.get(name, name)))


def _is_here(name: str) -> bool:
    try:
        require_judge(name)
    except MissingError:
        return False
    return True


__all__ = [
    "MissingError",
    "Planned",
    "Wanted",
    "experiment_of",
    "judge_of",
    "plan_table",
    "weights_of",
]
