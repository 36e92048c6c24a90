"""Tasks through an executor: finished ones are skipped, failures are kept and told at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass

from scanomaly.bench.execution import FAILURE_FILE, Executor, Failure, Outcome, Task
from scanomaly.bench.results import has_result
from scanomaly.errors import FitInterrupted
from scanomaly.files import write_text

FAILURE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a grid is, after an outcome. left: seconds, estimated."""

    done: int
    total: int
    left: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Summary:
    """What a grid came to. kept: tasks that had been finished before."""

    kept: int
    computed: int
    failures: tuple[Outcome, ...]


def run_grid(
    tasks: Sequence[Task],
    executor: Callable[[int], Executor],
    progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Compute every task that is not finished, in the order given.

    executor: made for so many tasks, and only if there are any. A task that fails leaves
    failure.json in its folder and is tried again the next time. Raises FitInterrupted after Ctrl-C:
    what is finished stays, and the same call goes on.
    """
    waiting = [task for task in tasks if not has_result(task.folder)]
    failures: list[Outcome] = []
    done, started = 0, time.monotonic()
    try:
        with closing(_outcomes(waiting, executor)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                outcome = _checked(outcome)
                if outcome.failure is not None:
                    failures.append(outcome)
                    _keep(outcome.task, outcome.failure)
                left = (time.monotonic() - started) / done * (len(waiting) - done)
                progress(Progress(done, len(waiting), left, outcome))
    except KeyboardInterrupt:
        raise FitInterrupted(
            f"stopped after {done} of {len(waiting)} jobs; the same command goes on with the rest."
        ) from None
    return Summary(len(tasks) - len(waiting), done - len(failures), tuple(failures))


def _outcomes(
    waiting: list[Task], executor: Callable[[int], Executor]
) -> Generator[Outcome, None, None]:
    """A generator, which `closing` ends."""
    if waiting:
        yield from executor(len(waiting)).outcomes(waiting)


def _checked(outcome: Outcome) -> Outcome:
    """A task that says that it went well but left nothing was computed where we do not see it."""
    task = outcome.task
    if outcome.failure is not None or has_result(task.folder):
        return outcome
    message = (
        f"{task.folder} holds no result although the job ended well: the machine that computed it "
        "has another folder under that path; put the bench folder on a file system that every "
        "machine sees."
    )
    return Outcome(task, Failure("DataError", message), outcome.seconds)


def _keep(task: Task, failure: Failure) -> None:
    values = {"format": FAILURE_FORMAT, "job": task.words, **asdict(failure)}
    write_text(task.folder / FAILURE_FILE, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
