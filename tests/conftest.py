"""Fixtures for the whole suite."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_runs import TinyRun

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
