"""What decides a job's digest; jobs and plans, written and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanomaly.bench import jobs
from scanomaly.bench.jobs import Contents, Job, Plan, PlannedCell, load_plan, planned_tables
from scanomaly.errors import CheckpointError
from scanomaly.presets import preset, vqa_preset

RUN = preset("qfae-offline")
JOB = Job.of(RUN, "Brain", "honest", Contents("data"))
CELL = PlannedCell("row", "column", 1, "honest", "abc")


@pytest.mark.parametrize("option", ["fit.accelerator=cpu", "fit.workers=3"])
def test_where_it_runs_changes_no_digest(option: str):
    assert (
        Job.of(RUN.with_overrides([option]), "Brain", "honest", Contents("data")).digest
        == JOB.digest
    )


def test_a_preset_of_another_name_is_the_same_job():
    renamed = RUN.model_copy(update={"preset": "other", "source": "elsewhere"})
    assert Job.of(renamed, "Brain", "honest", Contents("data")).digest == JOB.digest


def test_all_that_changes_numbers_changes_the_digest(monkeypatch: pytest.MonkeyPatch):
    others = [
        Job.of(RUN.with_overrides(["fit.seed=7"]), "Brain", "honest", Contents("data")),
        Job.of(
            RUN.with_overrides(["data.false_alarm_rate=0.1"]), "Brain", "honest", Contents("data")
        ),
        Job.of(RUN, "Liver", "honest", Contents("data")),
        Job.of(RUN, "Brain", "paper", Contents("data")),
        Job.of(RUN, "Brain", "honest", Contents("other data")),
        Job.of(RUN, "Brain", "honest", Contents("data", "weights")),
        Job.of(RUN, "Brain", "honest", Contents("data"), ["bart"]),
    ]
    monkeypatch.setattr(jobs, "RESULT_FORMAT", 99)
    others.append(Job.of(RUN, "Brain", "honest", Contents("data")))
    assert len({job.digest for job in (JOB, *others)}) == len(others) + 1


@pytest.mark.parametrize("experiment", [RUN, vqa_preset("kqf-concat-vit")])
def test_a_job_comes_back(tmp_path: Path, experiment):
    job = Job.of(experiment, "Brain", "paper", Contents("data"), ["roberta", "bart"])
    job.save(tmp_path)
    assert Job.load(tmp_path) == job
    assert job.judges == ("bart", "roberta")


def test_a_damaged_or_newer_job_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"job.json is missing"):
        Job.load(tmp_path)
    JOB.save(tmp_path)
    file = tmp_path / jobs.JOB_FILE
    text = file.read_text()
    file.write_text(text.replace('"method"', '"mothed"'))
    with pytest.raises(CheckpointError, match=r"job.json is damaged"):
        Job.load(tmp_path)
    file.write_text(text.replace('"format": 1', '"format": 2', 1))
    with pytest.raises(CheckpointError, match="has format 2 and this Scanomaly reads 1"):
        Job.load(tmp_path)


def test_plans_come_back_by_name(tmp_path: Path):
    plan = Plan("t1", ("fit.epochs=1",), (CELL,))
    plan.save(tmp_path)
    Plan("another", (), ()).save(tmp_path)
    assert planned_tables(tmp_path) == ["another", "t1"]
    assert load_plan(tmp_path, "t1") == plan
    assert load_plan(tmp_path, "unknown") is None


def test_a_plan_keeps_other_seeds_of_the_same_options():
    new = PlannedCell("row", "column", 1, "honest", "new")
    other = PlannedCell("row", "column", 2, "honest", "def")
    before = Plan("t1", (), (CELL, other))
    assert Plan("t1", (), (new,)).joined(before).cells == (new, other)
    assert Plan("t1", ("fit.epochs=1",), (new,)).joined(before).cells == (new,)


def test_a_damaged_plan_is_refused(tmp_path: Path):
    file = Plan("t1", (), (CELL,)).save(tmp_path)
    file.write_text(file.read_text().replace('"digest"', '"dogest"'))
    with pytest.raises(CheckpointError, match=r"t1.json is damaged"):
        load_plan(tmp_path, "t1")
