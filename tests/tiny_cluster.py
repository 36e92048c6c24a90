"""A Ray cluster of this machine, bound to 127.0.0.1: a head that computes nothing, and workers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # then Ray leaves 127.0.0.1 as it is
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # else a busy machine leaves them nothing
}
NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}


@dataclass(frozen=True)
class TinyCluster:
    """address: HOST:PORT of the head. workers: nodes of one CPU each."""

    cluster: Any
    workers: tuple[Any, ...]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill(self, worker: Any) -> None:
        """Its processes end at once, as if the machine had lost its power."""
        theirs = _processes_of(worker)
        self.cluster.remove_node(worker, allow_graceful=False)
        for process in theirs:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def computing(self) -> Any:
        """A node on which an actor lives; on a busy machine some start late."""
        for worker in self.workers:
            titles = map(_title, _processes_of(worker))
            if any(title.startswith("ray::") and "IDLE" not in title for title in titles):
                return worker
        raise AssertionError("no actor on any worker node")

    def worker_of(self, process: int) -> Any:
        """The node that runs a process."""
        parent = _parent(process)
        for worker in self.workers:
            raylets = worker.all_processes["raylet"]
            if any(one.process.pid == parent for one in raylets):
                return worker
        raise AssertionError(f"process {process} is on no worker node")


def _processes_of(worker: Any) -> list[int]:
    raylets = {one.process.pid for one in worker.all_processes["raylet"]}
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [process for process in processes if _parent(process) in raylets]


def _title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def _parent(process: int) -> int:
    """0 of one that has just ended."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@contextmanager
def tiny_cluster(workers: int = 2) -> Iterator[TinyCluster]:
    """Without dashboard and usage statistics; stopped however the context ends."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        from ray._private import ray_constants
        from ray.cluster_utils import Cluster

        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # it may be imported already
        head = {"num_cpus": 0, "include_dashboard": False, **NODE}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        folder = Path(cluster.head_node.get_session_dir_path())
        try:
            nodes = tuple(cluster.add_node(num_cpus=1, wait=False, **NODE) for _ in range(workers))
            cluster.wait_for_nodes(120)
            yield TinyCluster(cluster, nodes)
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
