"""Worker processes: they share the cores, die alone, and end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from bench.quick_jobs import BEGUN, GO, begun, make_tasks, process_of, quick, wait_for
from scanomaly.bench.grid import run_grid
from scanomaly.bench.local_pool import LocalPool, cuda_devices
from scanomaly.bench.results import has_result
from scanomaly.errors import ConfigError


def pool(workers: int) -> LocalPool:
    return LocalPool(workers, threads=3, perform=quick)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_two_workers_share_the_tasks(tmp_path: Path):
    tasks = make_tasks(tmp_path, "waits", "fine", "fine")
    outcomes = pool(2).outcomes(tasks)
    assert {next(outcomes).task, next(outcomes).task} == set(tasks[1:])  # the first waits meanwhile
    (tasks[0].folder.parent / GO).touch()
    assert [outcome.task for outcome in outcomes] == tasks[:1]
    assert process_of(tasks[0]) != process_of(tasks[1]) == process_of(tasks[2])
    assert (tasks[1].folder / BEGUN).read_text().split()[1] == "3", "threads of each worker"
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_fails_its_task_alone(tmp_path: Path):
    tasks = make_tasks(tmp_path, "dies", "fine", "fine")
    summary = run_grid(tasks, lambda number: pool(1))
    (failed,) = summary.failures
    assert failed.task == tasks[0]
    assert failed.failure is not None
    assert "ended by SIGKILL; the machine may lack memory" in failed.failure.message
    assert all(has_result(task.folder) for task in tasks[1:])


def test_closing_ends_what_is_under_way(tmp_path: Path):
    tasks = make_tasks(tmp_path, "waits", "fine")
    with closing(pool(2).outcomes(tasks)) as outcomes:
        next(outcomes)
        wait_for(tasks[0].folder / BEGUN)
    assert not is_running(process_of(tasks[0]))
    assert not has_result(tasks[0].folder)


DRIVER = """
import sys
from pathlib import Path
from bench.quick_jobs import make_tasks, quick
from scanomaly.bench.grid import run_grid
from scanomaly.bench.local_pool import LocalPool
if __name__ == "__main__":
    tasks = make_tasks(Path(sys.argv[1]), "fine", "waits", "fine")
    run_grid(tasks, lambda number: LocalPool(2, 1, perform=quick))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_loses_only_what_was_running(tmp_path: Path, how: signal.Signals):
    (tmp_path / "driver.py").write_text(DRIVER)
    tasks = make_tasks(tmp_path, "fine", "waits", "fine")
    search = os.pathsep.join(path for path in sys.path if path)
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", tmp_path],
        env={**os.environ, "PYTHONPATH": search},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tasks[0].folder / "result.json")
    wait_for(tasks[2].folder / "result.json")
    wait_for(tasks[1].folder / BEGUN)
    driver.send_signal(how)
    _, told = driver.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while is_running(process_of(tasks[1])):
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)
    if how == signal.SIGINT:
        assert "FitInterrupted: stopped after 2 of 3 jobs" in told
    (tasks[1].folder.parent / GO).touch()
    summary = run_grid(tasks, lambda number: pool(1))
    assert (summary.kept, summary.computed) == (2, 1)
    assert [begun(task) for task in tasks] == [1, 2, 1]


def test_devices_of_a_machine_without_cuda(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cuda_devices("auto") == cuda_devices("cpu") == ()
    with pytest.raises(ConfigError, match="--device cuda:1: this machine has 0 CUDA devices"):
        cuda_devices("cuda:1")


def test_devices_keep_the_names_they_were_given(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cuda_devices("auto") == ("4", "6")
    assert cuda_devices("cuda:1") == ("6",)
