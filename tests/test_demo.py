"""The demo: the whole path offline, tiny in this process and quick as users start it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scanomaly import demo
from scanomaly.errors import FitError


@pytest.fixture
def tiny_demo(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """As few patients as there may be, and the tiny run in place of the preset."""
    monkeypatch.setattr(demo, "QUICK_PATIENTS", 6)
    monkeypatch.setattr(demo, "preset", lambda name: tiny.run)


def numbers(evaluation) -> list[object]:
    found = [*evaluation.image.values(), *evaluation.pixel.values(), evaluation.threshold]
    return [*found, *(row.score for row in evaluation.rows)]


def test_the_same_seed_gives_the_same_numbers(tiny_demo, tmp_path):
    told: list[tuple[int, int]] = []
    first, run = demo.run_demo(
        tmp_path / "a", quick=True, progress=lambda done, total: told.append((done, total))
    )
    assert run == tmp_path / "a" / "run"
    assert (run / "model.safetensors").is_file()
    assert (tmp_path / "a" / "phantom" / "phantom.csv").is_file()
    assert told[-1] == (len(first.rows), len(first.rows))
    assert (first.dataset, first.resampled) == ("phantom", "patients")
    assert (first.run.fit.epochs, first.run.fit.batch_size) == (2, 16)
    assert first.splits["calibrated"].startswith("valid: ")

    again, _ = demo.run_demo(tmp_path / "b", quick=True)
    assert numbers(again) == numbers(first)
    other, _ = demo.run_demo(tmp_path / "c", quick=True, seed=1)
    assert other.run.fit.seed == 1
    assert numbers(other) != numbers(first)


def test_a_folder_that_holds_a_demo_is_refused(tiny_demo, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("years of work")
    with pytest.raises(FitError, match=rf"{tmp_path} already holds a demo; remove it or give ano"):
        demo.run_demo(tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_the_quick_demo_through_the_real_command_line(tmp_path):
    scanomaly = str(Path(sys.executable).with_name("scanomaly"))
    words = [scanomaly, "demo", "--quick", "--out", str(tmp_path / "demo")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    for step in ("1/3 simulating", "2/3 fitting qfae-offline", "3/3 evaluating"):
        assert step in done.stderr
    report = Path(done.stdout.split("report: ")[1].strip())
    text = report.read_text(encoding="utf-8")
    assert "Research software, not a medical device" in text
    assert 'src="http' not in text, "self-contained"
    metrics = json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())
    assert metrics["preset"] == "qfae-offline"
    assert metrics["image"]["auroc"]["value"] is not None
    again = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 2
    assert "already holds a demo" in again.stderr
