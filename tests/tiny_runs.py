"""One tiny data set and the run folder fitted on it, for every test that needs a whole run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from methods.tiny_detectors import offline_qfae, weight_folders
from scanomaly.checkpoint import read_state
from scanomaly.config.data import DataConfig
from scanomaly.config.experiment import MODEL_FILE
from scanomaly.config.fit import FitOptions
from scanomaly.config.run import Run
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.fitting import fit
from scanomaly.inference import FittedDetector

HEIGHT, WIDTH = 40, 48
"""Of every file; the detector sees 32 x 32."""
IMAGES = {
    ("train", "good"): 10,
    ("valid", "good"): 6,
    ("valid", "Ungood"): 2,
    ("test", "good"): 6,
    ("test", "Ungood"): 4,
}
"""(split, class) -> how many; two of each patient."""


@dataclass(frozen=True)
class TinyRun:
    """Shared by all tests: read it, never write into it.

    data: a BMAD set of patients, with masks. folder: the run folder. weights: the root of tiny
    networks.
    """

    data: Path
    folder: Path
    weights: Path
    run: Run
    fitted: FittedDetector
    manifest: Manifest

    @property
    def scan(self) -> Path:
        """An abnormal test image."""
        return next(row.path for row in self.manifest.split("test").abnormals())


def slice_pixels(seed: int, abnormal: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A grey ellipse in the dark, and the mask of its bright spot."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    middle = random.uniform(-3, 3, 2) + np.array([HEIGHT / 2, WIDTH / 2])
    inside = ((rows - middle[0]) / 15) ** 2 + ((columns - middle[1]) / 19) ** 2 < 1
    pixels = inside * (90 + 20 * np.sin(rows / 5 + random.uniform(0, 6)))
    spot = (rows - middle[0]) ** 2 + (columns - middle[1] - 6) ** 2 < 20
    spot &= abnormal
    pixels = np.where(spot, 250, pixels + random.normal(0, 3, pixels.shape))
    return pixels.clip(0, 255).round().astype(np.uint8), spot


def save_image(path: Path, pixels: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_set(
    root: Path, images: dict[tuple[str, str], int] = IMAGES, *, deep: bool = False
) -> Path:
    """A set in BMAD layout; deep writes 16 bits, up to some 25,000."""
    for kind, ((split, group), count) in enumerate(images.items()):
        for index in range(count):
            name = f"{split}{group}{index // 2}_{index % 2}.png"
            pixels, mask = slice_pixels(100 * kind + index, group == "Ungood")
            deeper = pixels.astype(np.uint16) * 100 if deep else pixels
            save_image(root / split / group / "img" / name, deeper)
            if group == "Ungood":
                save_image(root / split / group / "label" / name, mask.astype(np.uint8) * 255)
    return root


def tiny_run(weights: Path) -> Run:
    """Like the preset qfae-offline; weights: folder in which the tiny network is kept."""
    return Run(
        preset="tiny",
        source="tests",
        method="qfae",
        config=offline_qfae(weight_folders(weights)),
        data=DataConfig(false_alarm_rate=0.3),
        fit=FitOptions(
            epochs=2, batch_size=4, learning_rate=1e-2, warm_up=0.3, seed=3, accelerator="cpu"
        ),
    )


def state_of(folder: Path) -> dict[str, Tensor]:
    """The fitted tensors of a run folder."""
    return read_state(folder / MODEL_FILE)[0]


def make_tiny_run(root: Path) -> TinyRun:
    """Writes data set, weights and run folder under `root`, through the real `fit`."""
    run = tiny_run(root / "weights")
    manifest = read_manifest(write_set(root / "Brain"))
    fitted = fit(run, manifest, root / "run")
    assert fitted is not None
    return TinyRun(root / "Brain", root / "run", root / "weights", run, fitted, manifest)
