"""What is to be computed: a job, its digest, and which jobs make up a table. Loads no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError

from scanomaly.bench.results import RESULT_FORMAT
from scanomaly.config.run import Run
from scanomaly.config.vqa import VqaRun
from scanomaly.errors import CheckpointError
from scanomaly.files import write_text

Protocol = Literal["honest", "paper"]
JOB_FORMAT = 1
PLAN_FORMAT = 2
JOB_FILE = "job.json"
DIGEST_BYTES = 12

EXPERIMENTS: Mapping[str, type[Run] | type[VqaRun]] = {"detector": Run, "vqa": VqaRun}
"""Kind -> what its experiments are."""
WORDS = ("preset", "source", "format")
"""Fields of an experiment that change no number; digests leave them out."""
MACHINE = ("accelerator", "workers")
"""The same of its `fit`: where it runs, not what comes of it but for rounding."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Fingerprints of what a job reads; no weights where it needs none, or others have them."""

    data: str
    weights: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One experiment on one data set: what is computed at most once."""

    experiment: Run | VqaRun
    """Resolved: seed, data set, protocol and every option are inside."""
    dataset: str
    protocol: Protocol
    digest: str
    """Of the experiment, data set, protocol, judges, result format, and what data and pretrained
    weights contain."""
    judges: tuple[str, ...] = ()
    """Models that judge an answerer's open answers, as `vqa evaluate --nli` names them."""

    @classmethod
    def of(
        cls,
        experiment: Run | VqaRun,
        dataset: str,
        protocol: Protocol,
        fingerprints: Contents,
        judges: Iterable[str] = (),
    ) -> Self:
        """The job with its digest."""
        job = cls(experiment, dataset, protocol, "", tuple(sorted(judges)))
        return replace(job, digest=_digest(job, fingerprints))

    def save(self, folder: Path) -> None:
        """Write job.json, from which any process can compute it. Raises DiskError."""
        values = {
            "format": JOB_FORMAT,
            "digest": self.digest,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "judges": list(self.judges),
            "experiment": self.experiment.model_dump(mode="json"),
        }
        write_text(folder / JOB_FILE, json.dumps(values, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the job.json of a job's folder. Raises CheckpointError."""
        file = folder / JOB_FILE
        values = _read(file, JOB_FORMAT)
        try:
            experiment = values["experiment"]
            return cls(
                experiment=EXPERIMENTS[experiment["kind"]].model_validate(experiment),
                dataset=values["dataset"],
                protocol=values["protocol"],
                digest=values["digest"],
                judges=tuple(values["judges"]),
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error}); remove {folder} and run the table again."
            ) from error


def _digest(job: Job, fingerprints: Contents) -> str:
    experiment = job.experiment.model_dump(mode="json", exclude=set(WORDS))
    for field in MACHINE:
        del experiment["fit"][field]
    values: dict[str, Any] = {
        "experiment": experiment,
        "dataset": job.dataset,
        "protocol": job.protocol,
        "data": fingerprints.data,
        "result_format": RESULT_FORMAT,
    }
    if job.judges:
        values["judges"] = job.judges
    if fingerprints.weights:
        values["weights"] = fingerprints.weights
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One number of a table: which job gives it, or why none does."""

    row: str
    column: str
    seed: int
    protocol: Protocol
    digest: str | None
    missing: tuple[str, ...] = ()
    """Without a job: all that is missing here, and how to get it."""
    data: str = ""
    """Fingerprint of what the job reads."""

    @property
    def place(self) -> tuple[str, str, int, str]:
        return self.row, self.column, self.seed, self.protocol


@dataclass(frozen=True, slots=True)
class Plan:
    """Which jobs make up a table: bench/plan/TABLE.json, which reports read.

    options: those of --set, that apply to every cell.
    """

    table: str
    options: tuple[str, ...]
    cells: tuple[PlannedCell, ...]

    def joined(self, earlier: Plan | None) -> Plan:
        """With the other seeds, protocols and cells of an earlier plan with the same options."""
        if earlier is None or earlier.options != self.options:
            return self
        cells = {cell.place: cell for cell in (*earlier.cells, *self.cells)}
        return replace(self, cells=tuple(cells.values()))

    def save(self, out: Path) -> Path:
        """Write it under a bench folder. Raises DiskError."""
        file = plan_file(out, self.table)
        write_text(file, json.dumps({"format": PLAN_FORMAT, **asdict(self)}, indent=1) + "\n")
        return file


def plan_file(out: Path, table: str) -> Path:
    return out / "plan" / f"{table}.json"


def runs_folder(out: Path, digest: str) -> Path:
    """The folder of a job: job.json, run/, and result.json with draws.npz, or failure.json."""
    return out / "runs" / digest


def planned_tables(out: Path) -> list[str]:
    """Names of the tables that a bench folder has plans of, sorted."""
    return sorted(file.stem for file in (out / "plan").glob("*.json"))


def load_plan(out: Path, table: str) -> Plan | None:
    """The plan of a table; None where there is none. Raises CheckpointError."""
    file = plan_file(out, table)
    if not file.is_file():
        return None
    values = _read(file, PLAN_FORMAT)
    try:
        cells = tuple(_planned(cell) for cell in values["cells"])
        return Plan(values["table"], tuple(values["options"]), cells)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); remove it and run the table again."
        ) from error


def _planned(values: Mapping[str, Any]) -> PlannedCell:
    return PlannedCell(**{**values, "missing": tuple(values["missing"])})


def _read(file: Path, known: int) -> dict[str, Any]:
    """The fields of a file of this format. Raises CheckpointError."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        found = values["format"]
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; run the table again.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}); remove it and run the table "
            "again."
        ) from error
    if found != known:
        raise CheckpointError(
            f"{file} has format {found} and this Scanomaly reads {known}; upgrade with "
            "`pip install -U scanomaly`, or remove it and run the table again."
        )
    return dict(values)
