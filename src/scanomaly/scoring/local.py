"""Shards on this machine: in this process, or in one process per device."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnContext
from typing import Any

from scanomaly.inference import DECODERS
from scanomaly.processes import end_with_parent
from scanomaly.scoring.job import ScoringError
from scanomaly.scoring.shards import Counts, Shard, ShardScorer, Tick

POLL_SECONDS = 0.2
AHEAD = 1
"""Shards that wait for each worker, so that none is idle between two."""


def devices_for(device: str, workers: int | None) -> list[str]:
    """The device of each worker: without a number one per CUDA device, else one.

    Raises ScoringError for a number below 1.
    """
    import torch

    if workers is not None and workers < 1:
        raise ScoringError(f"expected at least one worker, got {workers}.")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        cards = torch.cuda.device_count()
        return [f"cuda:{i % cards}" for i in range(workers or cards)]
    return [device] * (workers or 1)


def score_here(shards: Iterator[Shard], scorer: ShardScorer, tick: Tick) -> Iterator[Counts]:
    """One after the other, in this process."""
    return (scorer.score(shard, tick) for shard in shards)


def score_in_processes(
    shards: Iterator[Shard], scorer: ShardScorer, devices: Sequence[str], tick: Tick
) -> Iterator[Counts]:
    """On one process per device. Raises ScoringError when one of them dies."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    shared = _Shared.new(context, devices)
    pool = ProcessPoolExecutor(
        len(devices), mp_context=context, initializer=_begin, initargs=(shared,)
    )
    scorer = replace(scorer, decoders=max(1, DECODERS // len(devices)))
    running: set[Future[Counts]] = set()
    try:
        for shard in shards:
            running.add(pool.submit(_score, scorer, shard))
            while len(running) >= len(devices) * (1 + AHEAD):
                yield from _finished(running, shared, tick)
        while running:
            yield from _finished(running, shared, tick)
    except BrokenProcessPool as error:
        raise ScoringError(
            "a worker process died, most likely for lack of memory; finished shards are kept. "
            "Give fewer --workers and run the same command again."
        ) from error
    finally:
        shared.stopping.set()
        pool.shutdown(cancel_futures=True)


def _finished(running: set[Future[Counts]], shared: _Shared, tick: Tick) -> Iterator[Counts]:
    """Wait a moment; those that finished, which leave `running`."""
    done, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
    tick(shared.take())
    running -= done
    for future in done:
        yield future.result()


@dataclass(frozen=True)
class _Shared:
    """What the processes have in common."""

    devices: Any
    """Queue: each worker takes one."""
    through: Any
    """Images since somebody looked."""
    stopping: Any
    threads: int
    """Of each worker's sums."""

    @classmethod
    def new(cls, context: SpawnContext, devices: Sequence[str]) -> _Shared:
        import torch

        queue = context.SimpleQueue()
        for device in devices:
            queue.put(device)
        threads = max(1, torch.get_num_threads() // len(devices))
        return cls(queue, context.Value("q", 0), context.Event(), threads)

    def take(self) -> int:
        """How many images got through since the last call."""
        with self.through.get_lock():
            count, self.through.value = int(self.through.value), 0
        return count

    def tick(self, count: int) -> None:
        if self.stopping.is_set():
            raise ScoringError("scoring was stopped; run the same command again to go on.")
        with self.through.get_lock():
            self.through.value += count


@dataclass(frozen=True, slots=True)
class _Worker:
    shared: _Shared
    device: str


_own: list[_Worker] = []
"""In a worker process: what it was begun with."""


def _begin(shared: _Shared) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's matter
    end_with_parent()
    torch.set_num_threads(shared.threads)
    _own.append(_Worker(shared, shared.devices.get()))


def _score(scorer: ShardScorer, shard: Shard) -> Counts:
    (worker,) = _own
    return replace(scorer, device=worker.device).score(shard, worker.shared.tick)
