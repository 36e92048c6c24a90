"""A small healthy set in BMAD layout, to be spoiled in one way at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanomaly.doctor import Finding, examine

SIDE = 24
IMAGES = {
    ("train", "good"): 10,
    ("valid", "good"): 4,
    ("valid", "Ungood"): 4,
    ("test", "good"): 20,
    ("test", "Ungood"): 20,
}
"""(split, class) -> how many."""


def picture(seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Smooth clouds between 40 and 200, each seed its own, in a black frame."""
    coarse = np.random.default_rng(seed).uniform(40, 200, (6, 6)).astype(np.float32)
    grey = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
    grey[:2] = grey[-2:] = grey[:, :2] = grey[:, -2:] = 0
    return grey.astype(np.uint8)


def save(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def spot(side: int = SIDE) -> NDArray[np.uint8]:
    """A mask."""
    mask = np.zeros((side, side), np.uint8)
    mask[8:13, 9:14] = 255
    return mask


def healthy(root: Path, first_seed: int = 0) -> Path:
    """Files 000.png, 001.png, ... in each of IMAGES; masks of abnormal images in label."""
    seed = first_seed
    for (split, kind), count in IMAGES.items():
        for number in range(count):
            pixels = picture(seed)
            seed += 1
            name = f"{number:03d}.png"
            if kind == "Ungood":
                pixels = np.where(spot() > 0, 255 - pixels, pixels)
                save(root / split / kind / "label" / name, spot())
            save(root / split / kind / "img" / name, pixels)
    return root


def images(root: Path, split: str = "*", kind: str = "*") -> list[Path]:
    return sorted(root.glob(f"{split}/{kind}/img/*"))


def findings(data: Path, check: str | None = None) -> list[Finding]:
    """What is found, of one check or of all."""
    found = examine(data, workers=1).findings
    return [finding for finding in found if check in (None, finding.check)]


def only(data: Path, check: str) -> Finding:
    """The one finding of a check."""
    found = findings(data, check)
    assert len(found) == 1, found
    return found[0]


def rewritten(paths: Sequence[Path]) -> Iterator[tuple[Path, NDArray[Any]]]:
    """Each image and its pixels, to be saved as something else."""
    for path in paths:
        yield path, np.array(Image.open(path))
