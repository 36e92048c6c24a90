"""Jobs whose work is a moment's, for tests of all that is around it; workers import it."""

from __future__ import annotations

import os
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from scanomaly.bench.execution import Task, execute
from scanomaly.bench.jobs import Contents, Job, runs_folder
from scanomaly.bench.results import JobResult, write_result
from scanomaly.errors import DataError
from scanomaly.metrics import Estimate
from scanomaly.presets import preset

BEGUN = "begun"
GO = "go"
"""Beside the folders of jobs: lets those of "waits" end."""
HALFWAY = "halfway"
PATIENCE = 60.0


def make_tasks(out: Path, *datasets: str) -> list[Task]:
    """One for each name, which decides what it does: see `quick`."""
    tasks = []
    for seed, dataset in enumerate(datasets):
        experiment = preset("qfae-offline").with_overrides([f"fit.seed={seed}"])
        job = Job.of(experiment, dataset, "honest", Contents("tests"))
        folder = runs_folder(out, job.digest)
        job.save(folder)
        tasks.append(Task(job.digest, folder, out, f"{dataset} {seed}"))
    return tasks


def quick(task: Task) -> None:
    """Notes that it began, then does what the data set's name says."""
    with (task.folder / BEGUN).open("a") as file:
        file.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    job = Job.load(task.folder)
    if job.dataset == "fails":
        raise DataError("the images are gone; bring them back.")
    if job.dataset == "breaks":
        raise ZeroDivisionError("nothing to divide by")
    if job.dataset == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.dataset == "nothing":
        return
    if job.dataset == "waits":
        wait_for(task.folder.parent / GO)
    write_result(quick_result(job), task.folder)


def quick_result(job: Job) -> JobResult:
    return JobResult(
        experiment=job.experiment.model_dump(mode="json"),
        dataset=job.dataset,
        protocol=job.protocol,
        seed=job.experiment.fit.seed,
        metrics={"image.auroc": Estimate(0.5 + job.experiment.fit.seed / 100)},
    )


def fit_in_halves(task: Task) -> None:
    """The real work of a tiny run, which waits for GO after its first epoch of two steps."""
    from scanomaly.methods.reconstruction import ReconstructionDetector

    with (task.folder / BEGUN).open("a") as file:
        file.write(f"{os.getpid()}\n")
    plain, steps = ReconstructionDetector.loss, count()

    def loss(self: ReconstructionDetector, observation: Any) -> Any:
        if next(steps) == 2:
            (task.folder / HALFWAY).touch()
            wait_for(task.folder.parent / GO, 3 * PATIENCE)
        return plain(self, observation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReconstructionDetector, "loss", loss)
        execute(task)


def wait_for(path: Path, patience: float = PATIENCE) -> None:
    """Until it exists; fails loudly if it never does."""
    deadline = time.monotonic() + patience
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def begun(task: Task) -> int:
    """How often its work was begun."""
    file = task.folder / BEGUN
    return len(file.read_text().splitlines()) if file.exists() else 0


def process_of(task: Task) -> int:
    """The process that began it last."""
    return int((task.folder / BEGUN).read_text().splitlines()[-1].split()[0])
