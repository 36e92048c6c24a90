"""One job to its result: real fits of tiny networks, what goes on, what fails."""

from __future__ import annotations

import fcntl
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scanomaly.bench import execution
from scanomaly.bench.execution import FAILURE_FILE, LOCK, LOG, RUN, Task, attempt, execute
from scanomaly.bench.jobs import Contents, Job, runs_folder
from scanomaly.bench.results import has_result, read_result
from scanomaly.config.run import Run
from scanomaly.config.vqa import VqaRun
from scanomaly.errors import DataError, FitError, WeightsError
from scanomaly.evaluation import evaluate
from tiny_runs import TinyRun
from vqa.tiny_vqa import TinyVqa


def task_of(out: Path, experiment: Run | VqaRun, data: Path, protocol="honest") -> Task:
    job = Job.of(experiment, data.name, protocol, Contents("tests"))
    folder = runs_folder(out, job.digest)
    job.save(folder)
    return Task(job.digest, folder, data, "a job", "cpu")


def quickly(run: Run) -> Run:
    return run.with_overrides(["fit.epochs=1"])


def test_a_detector_is_fitted_and_scored(tmp_path: Path, tiny: TinyRun):
    task = task_of(tmp_path, tiny.run, tiny.data)
    (task.folder / FAILURE_FILE).write_text("{}")
    assert attempt(execute, task) is None
    result = read_result(task.folder)
    assert result is not None
    expected = evaluate(tiny.fitted, tiny.manifest)
    assert result.metrics == {
        **{f"image.{name}": value for name, value in expected.image.items()},
        **{f"pixel.{name}": value for name, value in expected.pixel.items()},
    }
    draws = result.with_draws("pixel.ap").draws
    np.testing.assert_allclose(draws, expected.pixel["ap"].draws, rtol=1e-6)
    assert result.scores == tuple(row.score for row in expected.rows)
    assert result.ids == tuple(row.id for row in expected.rows)
    assert set(result.labels) == {True, False}
    assert None not in result.patients
    assert (result.by_size, result.by_kind) == (expected.by_size, expected.by_kind)
    assert result.honest == {}
    assert (result.dataset, result.protocol, result.seed) == ("Brain", "honest", 3)
    assert result.experiment == tiny.run.model_dump(mode="json")
    assert result.seconds > 0
    assert not (task.folder / FAILURE_FILE).exists()
    assert not (task.folder / RUN / "checkpoints").exists(), "nothing is left to resume"
    assert "training on 10 images" in (task.folder / LOG).read_text()


def test_a_published_protocol_has_the_honest_one_beside(
    tmp_path: Path, tiny: TinyRun, untrained: list[dict[str, object]]
):
    task = task_of(tmp_path, quickly(tiny.run).under("paper"), tiny.data, "paper")
    execute(task)
    result = read_result(task.folder)
    assert result is not None
    assert result.protocol == "paper"
    assert result.honest.keys() == result.metrics.keys()


def test_an_answerer_is_fitted_and_asked(tmp_path: Path, tiny_vqa: TinyVqa):
    task = task_of(tmp_path, tiny_vqa.run.with_overrides(["fit.epochs=1"]), tiny_vqa.data)
    execute(task)
    result = read_result(task.folder)
    assert result is not None
    assert {"closed.class_accuracy", "open.bleu_4", "gain.class_accuracy"} <= result.metrics.keys()
    assert result.with_draws("open.bleu_4").draws is not None
    assert set(result.scores) <= {0.0, 1.0}
    assert len(result.ids) == len(result.scores) == len(result.patients) > 0
    assert set(result.labels) == {None}
    share = sum(result.scores) / len(result.scores)
    assert share == pytest.approx(result.metrics["closed.class_accuracy"].value)


def test_a_finished_job_is_left_alone(tmp_path: Path, tiny: TinyRun, monkeypatch):
    task = task_of(tmp_path, tiny.run, tiny.data)
    (task.folder / "result.json").write_text("as it was")
    monkeypatch.setattr(execution, "KINDS", {})
    execute(task)
    assert (task.folder / "result.json").read_text() == "as it was"


def test_a_begun_fit_goes_on(tmp_path: Path, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch):
    from scanomaly import fitting

    resumed: list[bool] = []

    def pretend(run, manifest, out, *, resume, result_on_test):
        resumed.append(resume)
        run.save(out)
        raise DataError("far enough")

    monkeypatch.setattr(fitting, "fit", pretend)
    task = task_of(tmp_path, tiny.run, tiny.data)
    (task.folder / RUN).mkdir()
    (task.folder / RUN / ".run.yaml.12.part").touch()  # killed while it wrote its first file
    for _ in range(2):
        with pytest.raises(DataError, match="far enough"):
            execute(task)
        assert not (task.folder / RUN / ".run.yaml.12.part").exists()
    monkeypatch.setattr(execution, "ACCELERATORS", {"cpu": "auto"})  # the next time, elsewhere
    with pytest.raises(DataError, match="far enough"):
        execute(task)
    assert resumed == [False, True, False]


def test_what_was_fitted_before_a_kill_gives_the_same_result(
    tmp_path: Path, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    task = task_of(tmp_path, tiny.run, tiny.data)
    with monkeypatch.context() as patch:
        patch.setattr("scanomaly.evaluation.evaluate", die)
        with pytest.raises(Killed):
            execute(task)
    assert not has_result(task.folder)
    assert (task.folder / RUN / "checkpoints").exists()
    execute(task)
    result = read_result(task.folder)
    assert result is not None
    assert result.scores == tuple(row.score for row in evaluate(tiny.fitted, tiny.manifest).rows)


def test_a_machine_that_sees_no_folder_says_so(tmp_path: Path, tiny: TinyRun):
    task = task_of(tmp_path, tiny.run, tiny.data)
    failure = attempt(execute, replace(task, folder=tmp_path / "elsewhere"))
    assert failure is not None
    assert "does not see the bench folder" in failure.message
    assert "every machine sees under the same path" in failure.message
    failure = attempt(execute, replace(task, data=tmp_path / "nowhere"))
    assert failure is not None
    assert f"does not see the data ({tmp_path / 'nowhere'})" in failure.message


def test_weights_that_are_not_there_are_named(
    tmp_path: Path, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path))
    from scanomaly.presets import preset

    task = task_of(tmp_path, preset("qfae-brain"), tiny.data)
    with pytest.raises(WeightsError, match=r"are not on this machine .*scanomaly weights fetch"):
        execute(task)
    assert not has_result(task.folder)


def test_two_processes_do_not_share_a_job(tmp_path: Path, tiny: TinyRun, monkeypatch):
    monkeypatch.setattr(execution, "SECONDS_FOR_THE_LOCK", 0.3)
    task = task_of(tmp_path, tiny.run, tiny.data)
    with (task.folder / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FitError, match="is being computed by another process; wait"):
            execute(task)


def test_logging_is_as_before(tmp_path: Path, tiny: TinyRun):
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    attempt(execute, replace(task_of(tmp_path, tiny.run, tiny.data), data=tmp_path / "nowhere"))
    assert (root.level, root.handlers) == before
