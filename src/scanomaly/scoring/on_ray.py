"""Shards on a Ray cluster: one actor per GPU or node, each with the detector in its memory.

Run folder, images and output lie on storage that all nodes share under the same path. An actor that
dies is replaced, its shard is scored by another.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from scanomaly.errors import ScanomalyError
from scanomaly.inference import DECODERS
from scanomaly.ray_cluster import ClusterError, connect
from scanomaly.scoring.job import ScoringError
from scanomaly.scoring.shards import Counts, Shard, ShardScorer, Tick

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 300.0
"""For the first actor to start when none works."""
DEATHS = 3
"""Of actors over one shard, or at their start, before the work is given up."""


def score_on_ray(
    shards: Iterator[Shard], scorer: ShardScorer, address: str, workers: int | None, tick: Tick
) -> Iterator[Counts]:
    """workers: None is one per GPU of the cluster, else one per node.

    Raises ClusterError for a cluster that does not answer, what a worker raises with the name of
    its node, and ScoringError when no worker starts or a shard kills its workers.
    """
    if workers is not None and workers < 1:
        raise ScoringError(f"expected at least one worker, got {workers}.")
    with connect(address) as ray:
        share = _Share.of(ray, scorer.device, workers)
        scorer = replace(scorer, decoders=max(1, min(DECODERS, share.cpus)))
        crew = _Crew(ray, scorer, share)
        try:
            yield from crew.score(shards, tick)
        finally:
            crew.dismiss()


class Remote:
    """What lives in an actor."""

    def ready(self) -> str:
        """The node's name, once the actor runs."""
        return socket.gethostname()

    def score(self, scorer: ShardScorer, shard: Shard) -> Counts:
        try:
            return scorer.score(shard, lambda _: None)
        except ScanomalyError as error:
            raise type(error)(f"on {socket.gethostname()}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Share:
    """What each of so many actors takes of the cluster."""

    workers: int
    cpus: int
    gpus: int

    @classmethod
    def of(cls, ray: Any, device: str, workers: int | None) -> _Share:
        """Raises ClusterError for a cluster without a CPU."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
        if not nodes:
            raise ClusterError("the Ray cluster has no CPU for a worker; add nodes to it.")
        cards = [int(node.get("GPU", 0)) for node in nodes]
        gpus = sum(cards) if device.partition(":")[0] in ("auto", "cuda") else 0
        count = workers or gpus or len(nodes)
        a_node = max(cards) if gpus else -(-count // len(nodes))  # workers on one node
        cpus = int(min(node["CPU"] for node in nodes)) // a_node
        return cls(count, max(1, cpus), min(gpus, 1))


@dataclass(frozen=True, slots=True)
class _Doing:
    """What an actor is doing; no shard while it starts."""

    actor: Any
    shard: Shard | None


class _Crew:
    """Actors, and what each of them is doing."""

    def __init__(self, ray: Any, scorer: ShardScorer, share: _Share) -> None:
        self.ray, self.scorer, self.share = ray, scorer, share
        self.doing: dict[Any, _Doing] = {}
        self.idle: list[Any] = []
        self.again: deque[Shard] = deque()
        """Shards that lost their actor."""
        self.deaths: Counter[int | None] = Counter()
        self.kind = ray.remote(
            num_cpus=share.cpus, num_gpus=share.gpus, scheduling_strategy="SPREAD"
        )(Remote)
        for _ in range(share.workers):
            self._engage()

    def score(self, shards: Iterator[Shard], tick: Tick) -> Iterator[Counts]:
        while True:
            while self.idle and (shard := self._next(shards)):
                actor = self.idle.pop()
                self.doing[actor.score.remote(self.scorer, shard)] = _Doing(actor, shard)
            if self.idle and not any(doing.shard for doing in self.doing.values()):
                return  # actors have time and there is nothing left
            for reference in self._wait():
                doing = self.doing.pop(reference)
                counts = self._result(reference, doing)
                if counts is not None:
                    tick(counts.rows)
                    yield counts

    def _next(self, shards: Iterator[Shard]) -> Shard | None:
        return self.again.popleft() if self.again else next(shards, None)

    def dismiss(self) -> None:
        for actor in [*self.idle, *(doing.actor for doing in self.doing.values())]:
            with suppress(Exception):  # it may be gone, with its node or the cluster
                self.ray.kill(actor)

    def _engage(self) -> None:
        actor = self.kind.remote()
        self.doing[actor.ready.remote()] = _Doing(actor, None)

    def _wait(self) -> list[Any]:
        """Some of what has ended."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            done, _ = self.ray.wait(list(self.doing), num_returns=1, timeout=POLL_SECONDS)
            if done:
                return list(done)
            working = any(doing.shard for doing in self.doing.values())
            if not working and time.monotonic() > give_up:
                raise ScoringError(
                    f"no worker of {self.share.cpus} CPUs and {self.share.gpus} GPUs started "
                    f"within {PATIENCE_SECONDS:.0f} s; the cluster has "
                    f"{self.ray.cluster_resources()}. Give fewer or more --workers."
                )

    def _result(self, reference: Any, doing: _Doing) -> Counts | None:
        """None of an actor that is ready, or that died: its shard is then done again."""
        errors = self.ray.exceptions
        try:
            result = self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, ScanomalyError):
                raise error.cause from None
            raise ScoringError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error
        except errors.RayError as error:  # the actor or its node is gone
            self._replace(doing, error)
            return None
        self.idle.append(doing.actor)
        return result if isinstance(result, Counts) else None

    def _replace(self, doing: _Doing, error: Exception) -> None:
        key = None if doing.shard is None else doing.shard.index
        self.deaths[key] += 1
        lost = "" if key is None else f"; shard {key} is scored by another"
        logger.warning("a worker was lost (%s)%s.", _first_line(error), lost)
        if self.deaths[key] >= DEATHS * (self.share.workers if key is None else 1):
            what = "at their start" if key is None else f"over shard {key}"
            raise ScoringError(
                f"workers died {self.deaths[key]} times {what} ({_first_line(error)}); "
                "finished shards are kept. Look into the workers' memory and logs, then run the "
                "same command again."
            ) from error
        if doing.shard is not None:
            self.again.append(doing.shard)
        with suppress(Exception):
            self.ray.kill(doing.actor)
        self._engage()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
