"""The grid on a Ray cluster: what the local pool gives, machines and drivers that go away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.quick_jobs import (
    BEGUN,
    GO,
    HALFWAY,
    PATIENCE,
    begun,
    fit_in_halves,
    make_tasks,
    process_of,
    quick,
    wait_for,
)
from bench.test_execution import task_of
from bench.test_local_pool import is_running
from scanomaly.bench.execution import Task
from scanomaly.bench.grid import run_grid
from scanomaly.bench.local_pool import LocalPool
from scanomaly.bench.ray_pool import RayPool
from scanomaly.bench.results import RESULT_FILE, read_result
from scanomaly.errors import ConfigError
from scanomaly.presets import preset
from scanomaly.ray_cluster import ClusterError
from tiny_cluster import TinyCluster, tiny_cluster
from tiny_runs import TinyRun

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[TinyCluster]:
    with tiny_cluster(workers=2) as made:
        yield made


def numbers(task: Task) -> dict[str, object]:
    result = read_result(task.folder)
    assert result is not None
    return asdict(replace(result, seconds=0.0, folder=None))


def test_results_are_those_of_the_local_pool_whatever_else_fails(
    cluster: TinyCluster, tiny: TinyRun, tmp_path: Path
):
    there = task_of(tmp_path / "there", tiny.run, tiny.data)
    without_weights = task_of(tmp_path / "there", preset("qfae-brain"), tiny.data)
    unseen = replace(there, digest="unseen", data=tmp_path / "nowhere", folder=tmp_path / "other")
    summary = run_grid([without_weights, unseen, there], lambda _: RayPool(cluster.address))
    assert summary.computed == 1
    messages = {one.task.digest: one.failure.message for one in summary.failures if one.failure}
    assert messages.keys() == {without_weights.digest, "unseen"}
    assert "are not on this machine" in messages[without_weights.digest]
    assert "scanomaly weights fetch vit_" in messages[without_weights.digest]
    assert "on a file system that every machine sees" in messages["unseen"]
    here = task_of(tmp_path / "here", tiny.run, tiny.data)
    assert run_grid([here], lambda _: LocalPool(1, threads=1)).computed == 1
    assert numbers(there) == numbers(here)


def scores_of(task: Task) -> tuple[float, ...]:
    result = read_result(task.folder)
    assert result is not None
    return result.scores


DRIVER = """
import sys
from pathlib import Path
from bench.quick_jobs import make_tasks, quick
from scanomaly.bench.grid import run_grid
from scanomaly.bench.ray_pool import RayPool
tasks = make_tasks(Path(sys.argv[1]), "fine", "waits", "fine")
run_grid(tasks, lambda number: RayPool(sys.argv[2], perform=quick))
"""


def test_a_driver_that_is_killed_goes_on_where_it_was(cluster: TinyCluster, tmp_path: Path):
    tasks = make_tasks(tmp_path, "fine", "waits", "fine")
    search = os.pathsep.join(path for path in sys.path if path)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, tmp_path, cluster.address],
        env={**os.environ, "PYTHONPATH": search},
    )
    for task, name in zip(tasks, (RESULT_FILE, BEGUN, RESULT_FILE), strict=True):
        wait_for(task.folder / name)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 30
    while is_running(process_of(tasks[1])):
        assert time.monotonic() < deadline, "the cluster goes on without its driver"
        time.sleep(0.1)
    (tasks[0].folder.parent / GO).touch()
    summary = run_grid(tasks, lambda _: RayPool(cluster.address, perform=quick))
    assert (summary.kept, summary.computed, summary.failures) == (2, 1, ())
    assert [begun(task) for task in tasks] == [1, 2, 1]


def test_failures_stop_no_other(cluster: TinyCluster, tmp_path: Path):
    tasks = make_tasks(tmp_path, "fails", "breaks", "fine")
    summary = run_grid(tasks, lambda _: RayPool(cluster.address, at_once=1, perform=quick))
    assert summary.computed == 1
    assert [one.failure.kind for one in summary.failures if one.failure] == [
        "DataError",
        "ZeroDivisionError",
    ]


def test_a_job_that_fits_no_machine_is_refused(cluster: TinyCluster, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"takes 64 CPUs and 0 GPUs.*lower --threads"):
        run_grid(make_tasks(tmp_path, "fine"), lambda _: RayPool(cluster.address, cpus=64))


def test_a_machine_that_is_killed_costs_only_time(
    cluster: TinyCluster, tiny: TinyRun, tmp_path: Path
):
    """Both real fits are in their second epoch; the lost one goes on elsewhere from its first."""
    runs = [tiny.run.with_overrides([f"fit.seed={seed}"]) for seed in (3, 4)]
    tasks = [task_of(tmp_path / "there", run, tiny.data) for run in runs]

    def lose_a_machine() -> None:
        for task in tasks:
            wait_for(task.folder / HALFWAY, 3 * PATIENCE)
        cluster.kill(cluster.worker_of(process_of(tasks[0])))
        (tasks[0].folder.parent / GO).touch()

    lost = threading.Thread(target=lose_a_machine)
    lost.start()
    summary = run_grid(tasks, lambda _: RayPool(cluster.address, perform=fit_in_halves))
    lost.join()
    assert (summary.computed, summary.failures) == (2, ())
    assert [begun(task) for task in tasks] == [2, 1]
    same = [task_of(tmp_path / "here", run, tiny.data) for run in runs]
    run_grid(same, lambda _: LocalPool(1, threads=1))
    scores = [scores_of(task) for task in tasks]
    assert scores[0] != pytest.approx(scores[1], rel=1e-3), "two fits that differ"
    for task, other in zip(tasks, same, strict=True):
        assert scores_of(task) == pytest.approx(scores_of(other), rel=1e-4)


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_that_does_not_answer_is_told_in_seconds(
    cluster: TinyCluster, tmp_path: Path, listens: bool
):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        if listens:
            silent.listen()
        started = time.monotonic()
        with pytest.raises(ClusterError, match=rf"{address}.*does not answer.*ray start --head"):
            run_grid(make_tasks(tmp_path, "fine"), lambda _: RayPool(address))
        assert time.monotonic() - started < 15
