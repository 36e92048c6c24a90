"""Two fake styles, captions and a recipe, for pretraining in seconds. Loads no torch.

The level of a slice is where its stripe lies: rows of a grey image, columns of a coloured one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.fit import FitOptions
from scanomaly.data.phantom.simulate import PRE_TRAINING
from scanomaly.data.phantom.styles.style import Style, StyledSlice
from scanomaly.pretraining.recipe import (
    DistillationRecipe,
    ForeignRecipe,
    Recipe,
    Sizes,
    TextSizes,
    VisionSizes,
)

SIDE = 24
LEVELS = ("low", "middle", "high")


class Patient(NamedTuple):
    """All that is random starts from it."""

    seed: int
    index: int


def make_patient(seed: int, index: int, *, slices: int = 8, family: int = 0) -> Patient:
    assert family == PRE_TRAINING
    return Patient(seed, index)


def grey_slice(patient: Patient, number: int) -> StyledSlice:
    level = number % len(LEVELS)
    noise = np.random.default_rng([*patient, number]).integers(0, 60, (SIDE, SIDE))
    noise[level * 8 : level * 8 + 8] += 180
    return _slice(noise, {"modality": "grey scan", "level": LEVELS[level]})


def coloured_slice(patient: Patient, number: int) -> StyledSlice:
    level = number % len(LEVELS)
    noise = np.random.default_rng([*patient, number]).integers(0, 60, (SIDE, SIDE, 3))
    noise[:, level * 8 : level * 8 + 8, 0] += 180
    return _slice(noise, {"modality": "stained section", "level": LEVELS[level]})


def _slice(values: np.ndarray, facts: Mapping[str, str]) -> StyledSlice:
    empty = np.zeros((SIDE, SIDE), dtype=np.bool_)
    return StyledSlice("patient", 0, values.astype(np.uint8), empty, facts)


def no_lesion(patient: Patient, number: int) -> None:
    raise AssertionError("pretraining sees no anomaly")


STYLES = {
    name: Style(name, f"fake {name}", True, (), make_patient, healthy, no_lesion)
    for name, healthy in (("Grey", grey_slice), ("Colour", coloured_slice))
}


def caption(facts: Mapping[str, str], rng: np.random.Generator) -> str:
    wordings = ("a {modality} at the {level} level.", "{level} part of a {modality}")
    return str(rng.choice(wordings)).format(**facts)


TINY = Recipe(
    name="tiny-clip/test",
    sizes=Sizes(
        embed_dim=16,
        vision_cfg=VisionSizes(image_size=24, patch_size=8, width=32, layers=2, head_width=8),
        text_cfg=TextSizes(width=16, heads=2, layers=2),
    ),
    styles=tuple(STYLES),
    slices=96,
    held_out=24,
    patch_dropout=0.2,
    distillation=DistillationRecipe(
        teacher=BackboneConfig(name="tf_efficientnet_lite0.in1k", weights="random"),
        stages=(1, 2),
        blocks=(0, 1),
    ),
    foreign=ForeignRecipe(blocks=(1,), weight=0.5),
    fit=FitOptions(
        epochs=20, batch_size=32, learning_rate=3e-3, precision="bf16", accelerator="cpu", seed=3
    ),
)


def main(out: Path, devices: int) -> Path:
    """One epoch in fp32 without chance; the folder of the weights."""
    from scanomaly.pretraining.run import pretrain

    fields = {"fit.epochs": 1, "fit.precision": "fp32", "fit.devices": devices}
    exact = TINY.model_copy(update={"foreign": None}).with_values({**fields, "patch_dropout": 0.0})
    pretrain(out, exact, STYLES, caption)
    return out / exact.name


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
