"""The demo that goes on in words: each step does what the next one needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scanomaly import demo_vqa
from scanomaly.errors import FitError
from scanomaly.files import write_text
from scanomaly.questions import QUESTIONS


def test_a_folder_that_holds_a_demo_is_refused(tmp_path):
    write_text(tmp_path / "run-vqa" / "run.yaml", "years of work")
    with pytest.raises(FitError, match=rf"{tmp_path} already holds a demo; remove it or give ano"):
        demo_vqa.run_vqa_demo(tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run-vqa"]


@pytest.mark.slow
def test_the_quick_demo_through_the_real_command_line(tmp_path):
    scanomaly = str(Path(sys.executable).with_name("scanomaly"))
    words = [scanomaly, "demo", "--with-vqa", "--quick", "--out", str(tmp_path / "demo")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    steps = re.findall(rf"^(\d)/{demo_vqa.STEPS} ", done.stderr, re.M)
    assert steps == [str(k) for k in range(1, demo_vqa.STEPS + 1)]
    reports = [Path(line[8:]) for line in done.stdout.splitlines() if line.startswith("report: ")]
    assert [path.name for path in reports] == ["report.html", "report.html", "answers.html"]
    assert all("not a medical device" in path.read_text(encoding="utf-8") for path in reports)
    assert all(question.text[:60] in done.stdout for question in QUESTIONS.values())
