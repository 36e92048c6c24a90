"""Small images and folders to read: everything is written into tmp_path."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

SIDE = 16

Save = Callable[..., Path]
Build = Callable[..., Path]


def pixels(seed: int = 0, shape: tuple[int, ...] = (SIDE, SIDE)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write an array as an image below tmp_path; the suffix chooses the format."""

    def write(name: str, array: NDArray[Any] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels() if array is None else array).save(path)
        return path

    return write


@pytest.fixture
def build(tmp_path: Path, save: Save) -> Build:
    """Write images at each of the given paths below a folder of tmp_path, and return the folder."""

    def make(root: str, names: Iterable[str]) -> Path:
        for name in names:
            save(f"{root}/{name}")
        return tmp_path / root

    return make
