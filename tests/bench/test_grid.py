"""The grid around its executor: what is skipped, kept and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.quick_jobs import begun, make_tasks, quick
from scanomaly.bench.execution import FAILURE_FILE, Outcome, Task, attempt
from scanomaly.bench.grid import Progress, run_grid
from scanomaly.bench.results import has_result
from scanomaly.errors import FitInterrupted


class InOrder:
    """One task after the other, here. stops: the user presses Ctrl-C before so many are done."""

    def __init__(self, stops: int | None = None) -> None:
        self.stops, self.closed = stops, False

    def __call__(self, tasks: int) -> InOrder:
        return self

    def outcomes(self, tasks: list[Task]) -> Iterator[Outcome]:
        try:
            for number, task in enumerate(tasks):
                if number == self.stops:
                    raise KeyboardInterrupt
                yield Outcome(task, attempt(quick, task), 1.0)
        finally:
            self.closed = True


def test_finished_jobs_are_never_computed_again(tmp_path: Path):
    tasks = make_tasks(tmp_path, "fine", "fine", "fine")
    first = run_grid(tasks[:2], InOrder())
    again = run_grid(tasks, InOrder())
    assert (first.kept, first.computed, first.failures) == (0, 2, ())
    assert (again.kept, again.computed, again.failures) == (2, 1, ())
    assert [begun(task) for task in tasks] == [1, 1, 1]


def test_nothing_to_compute_needs_no_executor(tmp_path: Path):
    tasks = make_tasks(tmp_path, "fine")
    run_grid(tasks, InOrder())
    assert run_grid(tasks, lambda number: pytest.fail("made")).kept == 1


def test_one_failure_is_kept_and_stops_no_other(tmp_path: Path):
    tasks = make_tasks(tmp_path, "fails", "breaks", "fine")
    summary = run_grid(tasks, InOrder())
    assert summary.computed == 1
    assert [outcome.task for outcome in summary.failures] == tasks[:2]
    kept = json.loads((tasks[0].folder / FAILURE_FILE).read_text())
    assert kept["message"] == "the images are gone; bring them back."
    assert kept["kind"] == "DataError"
    assert kept["job"] == "fails 0"
    other = json.loads((tasks[1].folder / FAILURE_FILE).read_text())
    assert other["message"] == "ZeroDivisionError: nothing to divide by"
    assert "raise ZeroDivisionError" in other["traceback"]
    assert has_result(tasks[2].folder)


def test_failed_jobs_are_tried_again(tmp_path: Path):
    tasks = make_tasks(tmp_path, "fails", "fine")
    run_grid(tasks, InOrder())
    summary = run_grid(tasks, InOrder())
    assert (summary.kept, summary.computed, len(summary.failures)) == (1, 0, 1)
    assert begun(tasks[0]) == 2


def test_a_result_that_is_elsewhere_is_a_failure(tmp_path: Path):
    tasks = make_tasks(tmp_path, "nothing")
    (failure,) = run_grid(tasks, InOrder()).failures
    assert failure.failure is not None
    assert "on a file system that every machine sees" in failure.failure.message


def test_progress_tells_the_time_left(tmp_path: Path):
    told: list[Progress] = []
    run_grid(make_tasks(tmp_path, "fine", "fails", "fine"), InOrder(), told.append)
    assert [(one.done, one.total) for one in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[0].left > told[2].left == 0
    assert told[1].outcome.failure is not None


def test_ctrl_c_leaves_a_folder_that_goes_on(tmp_path: Path):
    tasks = make_tasks(tmp_path, "fine", "fine", "fine")
    executor = InOrder(stops=1)
    with pytest.raises(FitInterrupted, match="stopped after 1 of 3 jobs; the same command goes on"):
        run_grid(tasks, executor)
    assert executor.closed
    assert run_grid(tasks, InOrder()).computed == 2
    assert [begun(task) for task in tasks] == [1, 1, 1]
