"""`scanomaly doctor`: the table, the file, exit codes 0, 1 and 2, progress, Ctrl-C."""

import json

import pytest

from doctor.folders import healthy, images


@pytest.fixture
def root(tmp_path):
    return healthy(tmp_path / "own")


def test_safe(command, root, tmp_path):
    done = command("doctor", root, "--workers", 1)
    assert (done.code, done.err) == (0, "")
    first, *_, last = done.out.splitlines()
    for words in ("train: 10 normal, 0 abnormal", "test: 20 normal, 20 abnormal"):
        assert words in first
    assert last == "0 errors, 0 warnings, 1 note in 58 images: safe to go on."


def test_errors_are_exit_code_1(command, root, tmp_path):
    images(root)[0].write_bytes(b"")
    file = tmp_path / "found.json"
    done = command("doctor", root, "--workers", 1, "--json", file)
    assert done.code == 1
    row = next(line for line in done.out.splitlines() if line.startswith("error"))
    for words in ("unreadable", "1 files cannot be read", "(test/Ungood/img/000.png)", "copy or"):
        assert words in row
    assert f"findings: {file}" in done.out
    assert "not safe to go on" in done.out
    assert json.loads(file.read_text())["safe"] is False


def test_what_readers_warn_of_is_said_once(command, root):
    mask = next(root.glob("test/Ungood/label/*"))
    mask.rename(mask.with_name("other.png"))
    done = command("doctor", root, "--workers", 1)
    assert done.err == ""
    assert "mask without image" in done.out


def test_mistakes_are_exit_code_2(command, root, tmp_path):
    assert "found nothing" in command("doctor", tmp_path / "gone").error
    assert "expected a data set 'x'" in command("doctor", tmp_path, "--dataset", "x").error
    (tmp_path / "block").write_text("a file")
    failed = command("doctor", root, "--workers", 1, "--json", tmp_path / "block" / "f.json")
    assert "could not be written" in failed.error
    assert command("doctor", root, "--workers", 0).code == 2
    assert command("doctor").code == 2


def test_help_tells_the_exit_codes(command):
    help_text = " ".join(command("doctor", "--help").out.split())
    assert "Exit code 0: safe to go on. 1: the data hold errors." in help_text


def test_ctrl_c(command, root, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scanomaly.doctor.survey.measure", stop)
    done = command("doctor", root, "--workers", 1)
    assert (done.code, done.err) == (2, "stopped.\n")
