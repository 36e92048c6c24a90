"""Noisy images with brighter squares, and a detector of brightness to evaluate on them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scanomaly.calibration import Calibration
from scanomaly.config.data import InputSpec
from scanomaly.config.run import Run
from scanomaly.data.manifest import Manifest, Row, read_manifest
from scanomaly.evaluation import Evaluation, evaluate
from scanomaly.inference import FittedDetector
from scanomaly.methods import Detector
from scanomaly.records import Batch, Prediction
from tiny_runs import HEIGHT, WIDTH, save_image

SIDE = 16


class Brightness(Detector):
    """Maps are the picture's red channel, scores their mean, the reconstruction the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.range = (0.0, 1.0)

    @classmethod
    def build(cls, config):
        raise NotImplementedError

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(side=SIDE)

    def fit(self, train, validation=None, *, options, run_dir, resume=False, criterion=None):
        raise NotImplementedError

    @contextmanager
    def scaled_to(self, batches: Iterable[Batch]) -> Iterator[None]:
        red = torch.cat([batch.image[:, 0] for batch in batches])
        fitted, self.range = self.range, (red.min().item(), red.max().item())
        yield
        self.range = fitted

    def predict(self, batch: Batch) -> Prediction:
        low, high = self.range
        red = (batch.image[:, :1] - low) / (high - low)
        return Prediction(red.mean(dim=(1, 2, 3)), red, batch.image)


@dataclass(frozen=True)
class Bench:
    """A data set of noise in which lesions are a little brighter, and a detector to judge."""

    fitted: FittedDetector
    manifest: Manifest

    def evaluate(self, rows: tuple[Row, ...] | None = None, **options) -> Evaluation:
        manifest = self.manifest if rows is None else replace(self.manifest, rows=rows)
        return evaluate(self.fitted, manifest, **options)

    def rows(self, *, label: bool | None = None) -> tuple[Row, ...]:
        return tuple(row for row in self.manifest if label is None or row.label == label)


def write_noise(root: Path) -> Path:
    """Two slices of each of 14 patients; half are abnormal, with lesions of two sizes."""
    random = np.random.default_rng(0)
    for index in range(28):
        abnormal = index % 4 >= 2
        group = "Ungood" if abnormal else "good"
        name = f"p{index // 2}_{index % 2}.png"
        size = (HEIGHT, WIDTH) if index % 3 else (HEIGHT + 8, WIDTH - 8)
        pixels = random.integers(40, 160, size)
        mask = np.zeros(size, np.uint8)
        if abnormal:
            extent = 4 if index % 8 < 4 else 14
            mask[10 : 10 + extent, 20 : 20 + extent] = 255
            pixels = pixels + (mask > 0) * random.integers(20, 90)
            save_image(root / "test" / group / "label" / name, mask)
        save_image(root / "test" / group / "img" / name, pixels.clip(0, 255).astype(np.uint8))
    return root


def make_bench(run: Run, folder: Path) -> Bench:
    """The images, written to `folder`, and a calibrated detector."""
    manifest = read_manifest(write_noise(folder))
    healthy = [0.385, 0.388, 0.389, 0.39, 0.391, 0.392, 0.393, 0.394, 0.395]
    calibration = Calibration.of(healthy, 0.3, (0.2, 0.8), "made up")
    splits = {"trained": "nothing", "calibrated": "made up"}
    return Bench(FittedDetector(run, Brightness(), calibration, splits), manifest)
