"""Tasks on a Ray cluster, whose machines see data and bench folder under the same paths.

Every machine needs this version of Scanomaly and the pretrained weights. A machine that goes away
costs what it was computing since its last checkpoints; others go on from there.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scanomaly import __version__
from scanomaly.bench.execution import Failure, Outcome, Perform, Task, attempt, execute, place
from scanomaly.errors import ConfigError
from scanomaly.ray_cluster import connect

RETRIES = 5
"""Machines that may go away under one job."""
AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class RayPool:
    """A cluster. address: as ray_cluster.connect takes it.

    cpus, gpus: that each task takes; a task's threads are its CPUs. gpus None: one where any
    machine has some. at_once: most tasks under way.
    """

    address: str
    cpus: int = 1
    gpus: int | None = None
    at_once: int = AT_ONCE
    perform: Perform = execute

    def outcomes(self, tasks: list[Task]) -> Iterator[Outcome]:
        """See Executor. Raises ClusterError where nothing answers, ConfigError without room."""
        with connect(self.address) as ray:  # the cluster ends what is under way when we leave
            machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            gpus = self.gpus
            if gpus is None:
                gpus = int(any(one.get("GPU", 0) for one in machines))
            _require_room(machines, self.cpus, gpus)
            serve = ray.remote(
                num_cpus=self.cpus,
                num_gpus=gpus,
                max_retries=RETRIES,
                scheduling_strategy="SPREAD",
            )(_serve)
            yield from self._collected(ray, serve, deque(tasks))

    def _collected(self, ray: Any, serve: Any, waiting: deque[Task]) -> Iterator[Outcome]:
        running: dict[Any, tuple[Task, float]] = {}
        while waiting or running:
            while waiting and len(running) < self.at_once:
                task = waiting.popleft()
                running[serve.remote(self.perform, task, __version__)] = (task, time.monotonic())
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                task, since = running.pop(reference)
                yield Outcome(task, _failure(ray, reference), time.monotonic() - since)


def _serve(perform: Perform, task: Task, version: str) -> Failure | None:
    """On a machine of the cluster."""
    if version != __version__:
        message = (
            f"{socket.gethostname()} has Scanomaly {__version__} and the command is of {version}; "
            f"install the same there: `pip install scanomaly=={version}`."
        )
        return Failure("ConfigError", message, "", place())
    return attempt(perform, task)


def _failure(ray: Any, reference: Any) -> Failure | None:
    """What the task returned, or what kept it from returning."""
    try:
        returned: Failure | None = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # before `attempt`: the package is not there
        message = (
            f"a machine of the cluster could not begin ({str(error).strip().splitlines()[-1]}); "
            f"install Scanomaly {__version__} in the Python that runs Ray there."
        )
        return Failure(type(error).__name__, message, str(error))
    except ray.exceptions.RayError as error:
        message = (
            f"the cluster lost it {RETRIES + 1} times ({str(error).strip().splitlines()[0]}); see "
            "whether its machines go away or lack memory, and run the table again."
        )
        return Failure(type(error).__name__, message, str(error))
    return returned


def _require_room(machines: Sequence[Mapping[str, float]], cpus: int, gpus: int) -> None:
    """Raises ConfigError where no machine of the cluster is large enough for one task."""
    if any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in machines):
        return
    found = "; ".join(f"{one.get('CPU', 0):g} CPUs, {one.get('GPU', 0):g} GPUs" for one in machines)
    raise ConfigError(
        f"each job takes {cpus} CPUs and {gpus} GPUs, and no machine of the cluster has so many "
        f"({found}); lower --threads, choose another --device, or add machines."
    )
