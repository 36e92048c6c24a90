"""`scanomaly bench run` through the real command line, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.made_results import made_result
from scanomaly.bench import grid, simulation
from scanomaly.bench.execution import Task
from scanomaly.bench.jobs import load_plan, runs_folder
from scanomaly.bench.planning import Wanted, plan_table
from scanomaly.bench.results import read_result, write_result
from scanomaly.bench.tables import TABLES, Cell, Table, TableRow
from scanomaly.presets import PRESETS
from tiny_runs import TinyRun, write_set

HEALTHY_TEST = {("train", "good"): 8, ("test", "good"): 0}


def table_of(*datasets: str, name: str = "small", published: float | None = None) -> Table:
    cells = {dataset: Cell("tiny", dataset, "image.auroc", published) for dataset in datasets}
    return Table(name, "A small table", "tests", datasets, (TableRow("row", cells),), (1, 2), 0.1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny: TinyRun) -> None:
    """A table of the tiny run: on its data, on data without a test split, on data that lacks."""
    monkeypatch.setitem(PRESETS, "tiny", lambda: tiny.run)
    monkeypatch.setitem(TABLES, "small", lambda: table_of("Brain", "Untested", "Chest"))


@pytest.fixture
def data(tmp_path: Path, tiny: TinyRun) -> Path:
    shutil.copytree(tiny.data, tmp_path / "data" / "Brain")
    write_set(tmp_path / "data" / "Untested", HEALTHY_TEST)
    return tmp_path / "data"


def test_what_can_be_computed_is_computed_once(command, small, data: Path, tmp_path: Path):
    out = tmp_path / "bench"
    words = ("bench", "run", "small", "--data", data, "--out", out, "--seeds", "3", "--workers", 1)
    words += ("--threads", 1)
    words += ("--device", "cpu", "--set", "fit.epochs=1")
    done = command(*words)
    assert done.code == 2, "one job failed"
    told = done.err.splitlines()
    assert any(line.startswith("missing for 1 numbers: data set Chest: ") for line in told)
    assert any("1/2 row on Brain, seed 3, honest: done (" in line for line in told)
    assert any(
        line.startswith("failed: row on Untested, seed 3, honest: Untested: expected a test split")
        for line in told
    )
    assert done.out.splitlines()[0] == (
        "1 jobs computed, 0 had been finished before, 1 failed (the same command tries them "
        f"again), 1 numbers missing: {out}"
    )
    plan = load_plan(out, "small")
    assert plan is not None
    brain, untested, chest = plan.cells
    assert brain.digest is not None
    assert untested.digest is not None
    assert chest.digest is None
    result = read_result(runs_folder(out, brain.digest))
    assert result is not None
    assert result.experiment["fit"]["epochs"] == 1
    failure = json.loads((runs_folder(out, untested.digest) / "failure.json").read_text())
    assert failure["kind"] == "DataError"
    shutil.rmtree(data / "Untested")
    again = command(*words)
    assert again.code == 0, again.err
    assert again.out.startswith("0 jobs computed, 1 had been finished before, 2 numbers missing")


def test_quick_is_the_first_seed(command, small, monkeypatch, data: Path, tmp_path: Path):
    ran: list[Task] = []

    def run_none(tasks, executor, progress):
        ran.extend(tasks)
        return grid.Summary(0, 0, ())

    monkeypatch.setattr(grid, "run_grid", run_none)
    words = ("bench", "run", "small", "--data", data, "--out", tmp_path / "bench")
    assert command(*words, "--quick", "--seeds", "7,8", "--protocol", "honest,paper").code == 0
    assert [task.words for task in ran] == [
        f"row on {dataset}, seed 7, {protocol}"
        for protocol in ("honest", "paper")
        for dataset in ("Brain", "Untested")
    ]


def test_published_tables_are_computed_under_both_protocols(
    command, small, monkeypatch, data: Path, tmp_path: Path
):
    monkeypatch.setitem(TABLES, "small", lambda: table_of("Chest", published=90.0))
    out = tmp_path / "bench"
    done = command("bench", "run", "small", "--data", data, "--out", out)
    assert done.error == "small: nothing can be computed; what is missing is listed above."
    plan = load_plan(out, "small")
    assert plan is not None
    assert {(cell.seed, cell.protocol) for cell in plan.cells} == {
        (seed, protocol) for seed in (1, 2) for protocol in ("honest", "paper")
    }


def test_the_offline_table_simulates_its_data(
    command, small, monkeypatch, data: Path, tmp_path: Path
):
    simulated = []

    def write(out: Path, styles, *, patients, seed, slices, finer, progress):
        simulated.append((styles, patients, seed, slices, finer))
        if not out.exists():
            shutil.copytree(data, out)

    monkeypatch.setattr(simulation, "write_styles", write)
    made = replace(table_of("Chest", name="offline"), own_patients=True)
    monkeypatch.setitem(TABLES, "offline", lambda: made)
    out = tmp_path / "bench"
    assert "nothing can be computed" in command("bench", "run", "offline", "--out", out).error
    assert simulated == [(("all",), 120, 1, 4, 3), (("all",), 120, 2, 4, 3)]
    assert (out / "data" / "seed-2" / "Brain").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unknown"], r"no table 'unknown'; there are .*qfae-table5"),
        (["small"], r"small needs --data: a folder with Brain, Untested, Chest; only offline"),
        (["small", "--data", ".", "--seeds", "a"], r"--seeds a: expected numbers such as 42,7,13"),
        (["small", "--data", ".", "--protocol", "fair"], r"--protocol fair: expected honest"),
        (["small", "--data", "nowhere"], r"nowhere: expected a folder of data sets.*check --data"),
    ],
)
def test_what_cannot_be_meant_is_refused(refused, small, tmp_path: Path, words, message):
    refused(message, "bench", "run", *words, "--out", tmp_path / "bench")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_does_not_answer_is_named_and_nothing_is_lost(
    refused, small, monkeypatch, data: Path, tmp_path: Path, address: str
):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    out = tmp_path / "bench"
    words = ("bench", "run", "small", "--data", data, "--out", out, "--seeds", "1")
    planned = plan_table(Wanted(TABLES["small"](), (1,), ("honest",), lambda seed: data), out)
    finished = planned.tasks[0].folder
    write_result(made_result("Brain", 1, 1.0), finished)
    before = read_result(finished)
    refused(r"Ray at '127\.0\.0\.1:1'.* does not answer", *words, "--ray", address)
    assert read_result(finished) == before
