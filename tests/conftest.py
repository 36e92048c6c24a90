"""Fixtures for the whole suite."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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
