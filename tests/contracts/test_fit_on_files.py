"""Seeds, augmentation and saved weights where a run meets real image files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from methods.tiny_detectors import SIDE, Weights, published_qfae
from scanomaly.config.data import DataConfig, InputSpec
from scanomaly.config.fit import FitOptions
from scanomaly.config.run import Run
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.fitting import fit
from scanomaly.records import Draw
from scanomaly.training.sampling import InOrder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("data") / "Brain" / "train" / "good"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for patient in range(12):
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(folder / f"{patient}_1.png")
    return read_manifest(folder.parents[1])


def fitted(manifest: Manifest, weights: Weights, out: Path, **options: object) -> dict[str, Tensor]:
    options = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "accelerator": "cpu", **options}
    run = Run(
        preset="tiny",
        source="tests",
        method="qfae",
        config=published_qfae(weights),
        data=DataConfig(augmentation="qfae", calibration_share=0.25),
        fit=FitOptions.model_validate(options),
    )
    fit(run, manifest, out)
    return load_file(out / "model.safetensors")


def test_the_seed_decides_every_weight(manifest, weights, tmp_path):
    torch.manual_seed(1)
    first = fitted(manifest, weights, tmp_path / "first", seed=5)
    torch.manual_seed(2)
    second = fitted(manifest, weights, tmp_path / "second", seed=5)
    other = fitted(manifest, weights, tmp_path / "other", seed=6)
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    queries = "bottleneck.queries"
    # further apart than one epoch of steps of 1e-3 could bring two equal starts
    assert (other[queries] - first[queries]).abs().max() > 2e-3 * 2


def test_held_out_images_are_never_augmented(manifest):
    data = DataConfig(augmentation="qfae")
    dataset = ImageDataset(manifest, InputSpec(side=SIDE), data, seed=5)
    for draws in InOrder(len(dataset), 4):
        for draw in draws:
            assert torch.equal(dataset[draw].image, dataset[draw.index].image)
    assert not torch.equal(dataset[Draw(0, 0)].image, dataset[0].image)


def test_augmented_images_cannot_be_cached(manifest, weights, tmp_path):
    with pytest.raises(ValueError, match=r"cache_features .* set data.augmentation=none"):
        fitted(manifest, weights, tmp_path, cache_features=True)
