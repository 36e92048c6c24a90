"""One job to its result, in a folder of its own: fit, evaluate, write."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from scanomaly.bench.jobs import JOB_FILE, Job
from scanomaly.bench.results import JobResult, has_result, write_result
from scanomaly.bench.tables.table import OPEN_SET_CLASSES
from scanomaly.config.experiment import RUN_FILE
from scanomaly.config.fit import ACCELERATORS
from scanomaly.config.run import Run
from scanomaly.config.vqa import VqaRun
from scanomaly.errors import DataError, FitError, ScanomalyError
from scanomaly.metrics import Estimate
from scanomaly.questions import is_unseen

if TYPE_CHECKING:
    from scanomaly.data.mivqa import Corpus
    from scanomaly.evaluation import Evaluation
    from scanomaly.vqa.results import VqaEvaluation

AnyExperiment = TypeVar("AnyExperiment", Run, VqaRun)
RUN = "run"
FAILURE_FILE = "failure.json"
LOG = "job.log"
LOCK = "lock"
SECONDS_FOR_THE_LOCK = 60.0
"""A process that is about to end may still hold it."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job to be computed: where its folder with job.json is, and where the data is.

    words: what people read of it. device: as `--device` names it.
    """

    digest: str
    folder: Path
    data: Path
    words: str
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job came to nothing. kind: the error's class. where: host and process."""

    kind: str
    message: str
    traceback: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task that has ended, well where there is no failure."""

    task: Task
    failure: Failure | None
    seconds: float


class Executor(Protocol):
    """Whatever computes tasks: processes here, or a cluster."""

    def outcomes(self, tasks: list[Task]) -> Iterator[Outcome]:
        """Each task's outcome as it comes. Closing the generator ends whatever still computes."""
        ...


Perform = Callable[[Task], None]
"""What a worker does with a task: `execute`, or a test's quick stand-in. Importable by name."""


def attempt(perform: Perform, task: Task) -> Failure | None:
    """Perform a task; its failure is returned, so that the other tasks go on."""
    try:
        with _logged(task.folder):
            perform(task)
    except Exception as error:
        return Failure(type(error).__name__, _words(error), traceback.format_exc(), place())
    return None


def place() -> str:
    """This process in words."""
    return f"{socket.gethostname()}, process {os.getpid()}"


def _words(error: Exception) -> str:
    if isinstance(error, ScanomalyError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def execute(task: Task) -> None:
    """Compute the job in the task's folder, or finish it; a finished one is left alone.

    Raises DataError where this machine does not see the folders, FitError where another process
    works on the job, and whatever fit and evaluation raise.
    """
    _require_sight(task)
    with _alone(task.folder):
        if has_result(task.folder):
            return
        job, started = Job.load(task.folder), time.monotonic()
        result = KINDS[job.experiment.kind](job, task)
        seconds = round(time.monotonic() - started, 1)
        write_result(replace(result, seconds=seconds), task.folder)
    (task.folder / FAILURE_FILE).unlink(missing_ok=True)
    for only_to_resume in ("checkpoints", "logs"):
        shutil.rmtree(task.folder / RUN / only_to_resume, ignore_errors=True)


def _require_sight(task: Task) -> None:
    for what, path in (("bench folder", task.folder / JOB_FILE), ("data", task.data)):
        if not path.exists():
            raise DataError(
                f"{socket.gethostname()} does not see the {what} ({path}); data and bench folder "
                "must lie on a file system that every machine sees under the same path: mount it "
                "there, or give paths that are shared."
            )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While it lasts, no other process computes this job. Raises FitError."""
    with (folder / LOCK).open("w") as lock:
        deadline = time.monotonic() + SECONDS_FOR_THE_LOCK
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FitError(
                        f"{folder} is being computed by another process; wait for it to end and "
                        "run the table again."
                    ) from None
                time.sleep(0.2)
        yield  # the lock goes with the file, however the process ends


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """What is logged goes into the job's folder, not to the terminal of the grid."""
    if not folder.is_dir():  # told by whoever needs it
        yield
        return
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    file = logging.FileHandler(folder / LOG, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    root.handlers = [file]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        file.close()
        root.handlers = handlers
        root.setLevel(level)


def _detector(job: Job, task: Task) -> JobResult:
    from scanomaly.data.manifest import read_manifest
    from scanomaly.evaluation import evaluate, result_on_test
    from scanomaly.fitting import fit, read_training_data
    from scanomaly.inference import FittedDetector

    assert isinstance(job.experiment, Run)  # its kind
    run, out = _here(job.experiment, task), task.folder / RUN
    target = read_manifest(task.data, job.dataset)
    fitted = fit(
        run,
        read_training_data(run, task.data, job.dataset),
        out,
        resume=_goes_on(run, out),
        result_on_test=result_on_test(lambda: target),
    )
    assert fitted is not None  # one process
    if task.device != "auto":
        fitted = FittedDetector.load(out, device=task.device)
    return _of_detector(job, evaluate(fitted, target, protocol=job.protocol))


def _here(experiment: AnyExperiment, task: Task) -> AnyExperiment:
    """The experiment on this task's device."""
    name = task.device.partition(":")[0]
    return experiment.with_overrides([f"fit.accelerator={ACCELERATORS.get(name, name)}"])


def _goes_on(experiment: Run | VqaRun, out: Path) -> bool:
    """Whether `out` holds the beginning of this very run; what cannot go on is removed."""
    if (out / RUN_FILE).exists():
        begun = type(experiment).load(out)
        if begun.fit.accelerator == experiment.fit.accelerator:
            return True
    shutil.rmtree(out, ignore_errors=True)
    return False


def _of_detector(job: Job, evaluation: Evaluation) -> JobResult:
    rows, honest = evaluation.rows, evaluation.honest
    return JobResult(
        experiment=job.experiment.model_dump(mode="json"),
        dataset=job.dataset,
        protocol=job.protocol,
        seed=job.experiment.fit.seed,
        metrics=_levels(evaluation),
        honest={} if honest is None else _levels(honest),
        ids=tuple(row.id for row in rows),
        patients=tuple(row.patient for row in rows),
        labels=tuple(row.label for row in rows),
        scores=tuple(row.score for row in rows),
        by_size=evaluation.by_size,
        by_kind=evaluation.by_kind,
        weights=evaluation.weights,
        notes=evaluation.notes,
    )


def _levels(evaluation: Evaluation) -> dict[str, Estimate]:
    return _named({"image": evaluation.image, "pixel": evaluation.pixel})


def _named(families: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Such as {"image": {"auroc": ...}} -> {"image.auroc": ...}."""
    return {
        f"{family}.{name}": estimate
        for family, metrics in families.items()
        for name, estimate in metrics.items()
    }


def read_corpus_of(data: Path, dataset: str) -> Corpus:
    """The corpus `dataset` of a folder of corpora, or the folder itself. Raises DataError."""
    from scanomaly.data.mivqa import read_corpus

    return read_corpus(data / dataset if (data / dataset).is_dir() else data)


def _answerer(job: Job, task: Task) -> JobResult:
    from scanomaly.vqa.checkpoint import FittedAnswerer
    from scanomaly.vqa.evaluation import evaluate
    from scanomaly.vqa.fitting import fit

    assert isinstance(job.experiment, VqaRun)  # its kind
    run, out = _here(job.experiment, task), task.folder / RUN
    corpus = read_corpus_of(task.data, job.dataset)
    fitted = fit(run, corpus, out, resume=_goes_on(run, out))
    assert fitted is not None  # one process
    if task.device != "auto":
        fitted = FittedAnswerer.load(out, device=task.device)
    return _of_answerer(job, evaluate(fitted, corpus, nli=job.judges))


def _of_answerer(job: Job, evaluation: VqaEvaluation) -> JobResult:
    apart = evaluation.open_set is not None  # unseen kinds, whose answers are counted there
    closed = [
        row
        for row in evaluation.rows
        if row.correct is not None and not (apart and is_unseen(row.item.category))
    ]
    return JobResult(
        experiment=job.experiment.model_dump(mode="json"),
        dataset=job.dataset,
        protocol=job.protocol,
        seed=job.experiment.fit.seed,
        metrics=_of_answers(evaluation),
        ids=tuple(row.item.id for row in closed),
        patients=tuple(row.item.patient for row in closed),
        labels=(None,) * len(closed),
        scores=tuple(float(row.correct is True) for row in closed),
        weights=evaluation.weights,
        notes=evaluation.notes,
    )


def _of_answers(evaluation: VqaEvaluation) -> dict[str, Estimate]:
    families = {
        "closed": evaluation.closed,
        "open": evaluation.open,
        "closed_baseline": evaluation.closed_baseline,
        "open_baseline": evaluation.open_baseline,
        "gain": {"class_accuracy": evaluation.gain},
        **{f"nli.{judge}": shares for judge, shares in evaluation.nli.items()},
    }
    if evaluation.open_set is not None:
        for kind in ("known", "unknown"):
            part = getattr(evaluation.open_set, kind)
            for word, answer in OPEN_SET_CLASSES.items():
                families[f"open_set.{kind}.{word}"] = part.classes[answer]
    return _named(families)


KINDS: Mapping[str, Callable[[Job, Task], JobResult]] = {
    "detector": _detector,
    "vqa": _answerer,
}
"""Kind of an experiment -> what computes it."""
