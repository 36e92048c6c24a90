"""Fixtures for the whole suite."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_runs import TinyRun
    from vqa.tiny_vqa import TinyVqa

os.environ["OMP_NUM_THREADS"] = "1"
"""Sums in one order on every machine, here and in processes that tests start: comparisons down to
rounding, and Adam's answer to gradients near zero, hang on it. Set before torch is imported."""

# shells start background jobs deaf to Ctrl-C, and so would be the processes that tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_HERE = Path(__file__).parent
_SHARED = _HERE.parents[1] / "shared" / "golden"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """Path of a golden file: the shared collection's, else this repository's copy."""

    def find(name: str) -> Path:
        shared = _SHARED / name
        return shared if shared.is_file() else _HERE / "golden" / name

    return find


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A tiny data set and the run folder fitted on it, made once; nobody writes into them."""
    from tiny_runs import make_tiny_run  # torch, only for those who ask

    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def run_copy(tiny: TinyRun, tmp_path: Path) -> Path:
    """A copy of the tiny run folder, to be damaged at will."""
    return shutil.copytree(tiny.folder, tmp_path / "run")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """`fit` of reconstructing methods without its gradient loop; what each call was given."""
    from scanomaly.methods.reconstruction import ReconstructionDetector
    from scanomaly.training import History

    calls: list[dict[str, object]] = []

    def pretend(self, train, validation=None, *, options, run_dir, resume=False, criterion=None):
        calls.append({"train": train.rows, "validation": validation and validation.rows})
        return History((1.0,), (), 1, "last epoch")

    monkeypatch.setattr(ReconstructionDetector, "fit", pretend)
    return calls


@pytest.fixture(scope="session")
def tiny_vqa(tmp_path_factory: pytest.TempPathFactory) -> TinyVqa:
    """A tiny corpus and the answerer fitted on it, made once; nobody writes into them."""
    from vqa.tiny_vqa import make_tiny_vqa

    return make_tiny_vqa(tmp_path_factory.mktemp("tiny_vqa"))


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a failure."""
        assert self.code == 2
        assert "Traceback" not in self.err
        *before, last = self.err.splitlines()
        assert last.startswith("error: "), self.err
        assert not any(line.startswith("error: ") for line in before), "one line, the last"
        return last.removeprefix("error: ")


Command = Callable[..., Done]


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """The command line takes over logging; others get theirs back."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    levels = {logger: logger.level for logger in loggers}
    handlers = root.handlers[:]
    root.handlers = []  # taken away: basicConfig would close them
    yield
    root.handlers = handlers
    for logger, level in levels.items():
        logger.setLevel(level)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logs_as_before: None
) -> Command:
    """Run `scanomaly WORDS...` through its entry point."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # restored after --offline has set it

    from scanomaly.cli import main

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["scanomaly", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert code is None or isinstance(code, int), "words would be printed, and exit with 1"
        return Done(code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def refused(command: Command) -> Callable[..., None]:
    """One line that says what is wrong; the same with --debug, behind the traceback."""

    def run(message: str, *words: object) -> None:
        error = command(*words).error
        assert re.search(message, error), error
        debug = command(*words, "--debug")
        assert debug.code == 2
        assert "Traceback (most recent call last):\n" in debug.err
        assert debug.err.splitlines()[-1] == f"error: {error}"

    return run
