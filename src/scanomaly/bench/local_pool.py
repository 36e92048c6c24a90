"""Tasks on processes of this machine, which share its cores and end with their parent."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from scanomaly.bench.execution import Failure, Outcome, Perform, Task, attempt, execute
from scanomaly.errors import ConfigError
from scanomaly.processes import end_with_parent

CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"
SECONDS_TO_END = 5.0
"""Before a worker that was asked to end is killed."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cuda_devices(device: str) -> tuple[str, ...]:
    """CUDA's names of the devices that `--device` means: all for auto and cuda, one for cuda:1."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cuda"):
        return ()
    import torch

    given = [name for name in os.environ.get(CUDA_VARIABLE, "").split(",") if name]
    names = given or [str(number) for number in range(torch.cuda.device_count())]
    names = names[: torch.cuda.device_count()]
    if index and not (index.isdigit() and int(index) < len(names)):
        raise ConfigError(f"--device {device}: this machine has {len(names)} CUDA devices.")
    return (names[int(index)],) if index else tuple(names)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    since: float = 0.0

    def begin(self, task: Task) -> None:
        self.task, self.since = task, time.monotonic()
        with suppress(OSError):  # it has just died: told when its end is seen
            self.pipe.send(task)


@dataclass(frozen=True, slots=True)
class LocalPool:
    """So many processes with so many threads each.

    devices: CUDA devices that the workers take in turn; none for the CPU. A worker that dies, such
    as for want of memory, fails its own task alone, and another takes its place.
    """

    workers: int
    threads: int
    devices: tuple[str, ...] = ()
    perform: Perform = execute

    def outcomes(self, tasks: list[Task]) -> Iterator[Outcome]:
        """See Executor."""
        waiting = deque(tasks)
        workers = [self._start(index) for index in range(min(self.workers, len(tasks)))]
        try:
            for worker in workers:
                worker.begin(waiting.popleft())
            while any(worker.task for worker in workers):
                wait([each for w in workers if w.task for each in (w.pipe, w.process.sentinel)])
                ended = []
                for index, worker in enumerate(workers):
                    outcome = _outcome(worker)
                    if outcome is None:
                        continue
                    ended.append(outcome)
                    if not worker.process.is_alive() and waiting:
                        worker = workers[index] = self._start(index)
                    if waiting:
                        worker.begin(waiting.popleft())
                yield from ended
        finally:
            _end(workers)

    def _start(self, index: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        environment = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        if self.devices:
            environment[CUDA_VARIABLE] = self.devices[index % len(self.devices)]
        process = context.Process(
            target=_serve, args=(theirs, self.perform, environment), name=f"bench-{index}"
        )
        process.start()
        theirs.close()  # so that its end is seen when the process ends
        return _Worker(process, ours)


def _outcome(worker: _Worker) -> Outcome | None:
    """That of the worker's task, if it has ended in one way or another."""
    task = worker.task
    if task is None:
        return None
    failure: Failure | None
    try:
        if worker.pipe.poll():
            failure = worker.pipe.recv()
        elif worker.process.is_alive():
            return None
        else:
            raise EOFError
    except (EOFError, OSError):
        worker.process.join(SECONDS_TO_END)
        failure = Failure("WorkerDied", _end_in_words(worker.process.exitcode))
    worker.task = None
    return Outcome(task, failure, time.monotonic() - worker.since)


def _end_in_words(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the process that computed it ended with exit code {code}; job.log may tell why."
    name = signal.Signals(-code).name
    memory = "; the machine may lack memory: use fewer --workers" if name == "SIGKILL" else ""
    return f"the process that computed it was ended by {name}{memory}."


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()  # an idle one reads its end
        if worker.task is not None:
            worker.process.terminate()
    deadline = time.monotonic() + SECONDS_TO_END
    for worker in workers:
        worker.process.join(max(0.1, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


def _serve(pipe: Connection, perform: Perform, environment: Mapping[str, str]) -> None:
    """A worker's life. The environment counts as long as torch is not imported."""
    os.environ.update(environment)
    if "torch" in sys.modules:  # the parent's main module did
        sys.modules["torch"].set_num_threads(int(environment[THREAD_VARIABLES[0]]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    logging.captureWarnings(True)
    end_with_parent()
    with suppress(EOFError, OSError):  # the parent closed its end, or is gone
        while True:
            pipe.send(attempt(perform, pipe.recv()))
