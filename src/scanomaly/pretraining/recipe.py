"""Everything that decides a pretraining: sizes, images and schedule. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.base import Frozen
from scanomaly.config.fit import FitOptions
from scanomaly.errors import ConfigError, FitError
from scanomaly.files import write_text

PLAN_FILE = "pretraining.json"


class VisionSizes(Frozen):
    """ViT-tiny, with patches small enough for a grid of 16x16."""

    image_size: int = 128
    patch_size: int = 8
    width: int = 192
    layers: int = 12
    head_width: int = 64


class TextSizes(Frozen):
    """CLIP's vocabulary and context; the width is what keeps the file small."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 64
    heads: int = 2
    layers: int = 4


class Sizes(Frozen):
    """Arguments of open_clip's CLIP. IQE-CLIP needs embed_dim = text width."""

    embed_dim: int = 64
    vision_cfg: VisionSizes = VisionSizes()
    text_cfg: TextSizes = TextSizes()


class DistillationRecipe(Frozen):
    """Which network teaches the patch tokens, and which of them."""

    teacher: BackboneConfig = BackboneConfig(name="tf_efficientnet_lite0.in1k")
    """Seen by it are the same images, of any side."""
    stages: tuple[int, ...] = (1, 2, 3)
    """Of the teacher: strides 4, 8 and 16."""
    blocks: tuple[int, ...] = (2, 5, 8, 11)
    """Of the student: the levels of the offline presets."""
    weight: float = Field(default=4.0, gt=0)
    """Beside the contrastive loss."""


class ForeignRecipe(Frozen):
    """How patch tokens learn to tell places that were pasted into an image."""

    regions: int = Field(default=2, gt=0)
    """At most, in an image; each is there or not."""
    blocks: tuple[int, ...] = (2, 5, 8, 11)
    """The levels of the offline presets."""
    weight: float = Field(default=4.0, gt=0)
    """Beside the contrastive loss."""


class Recipe(Frozen):
    """One pretraining; saved as pretraining.json, from which it can be resumed."""

    format: Literal[1] = 1
    name: str = Field(default="tiny-clip/phantom", pattern=r"^[\w.-]+/[\w.-]+$")
    """As open_clip names weights: architecture, slash, tag."""
    sizes: Sizes = Sizes()
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    patch_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of patches left out of every training image: nearly twice the images an hour for the
    same accuracy (FLIP, arXiv 2212.00794)."""
    distillation: DistillationRecipe | None = DistillationRecipe()
    """None: no teacher."""
    foreign: ForeignRecipe | None = ForeignRecipe()
    """None: healthy images as they are. Without both, patch tokens hardly tell an anomaly."""
    styles: tuple[str, ...] = ()
    """Styles of simulated images."""
    slices: int = Field(default=3200, gt=0)
    """Training images of each style."""
    held_out: int = Field(default=160, gt=0)
    """Images of each style, of other patients, for the accuracy in the model card."""
    fit: FitOptions = FitOptions(
        epochs=8,
        batch_size=64,
        learning_rate=5e-4,
        warm_up=0.1,
        betas=(0.9, 0.98),
        gradient_clip=1.0,
        precision="bf16",
    )
    """Small batches, since there are some sixty different facts, and an hour has few steps. No
    weight decay: Adam scales it like a gradient, and would wipe out the embeddings of all
    words that no caption has, such as those of anomalies."""

    def with_values(self, given: Mapping[str, Any]) -> Recipe:
        """A copy with the given fields, of `fit` as `fit.seed`; None leaves one as it is.

        Raises ConfigError for values that cannot be.
        """
        known = {name: value for name, value in given.items() if value is not None}
        own = {name: value for name, value in known.items() if "." not in name}
        of_fit = {name.removeprefix("fit."): known[name] for name in known.keys() - own.keys()}
        values = {**self.model_dump(), **own, "fit": {**self.fit.model_dump(), **of_fit}}
        try:
            return Recipe.model_validate(values)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
            raise ConfigError("; ".join(problems)) from error

    def save(self, folder: Path) -> None:
        write_text(folder / PLAN_FILE, self.model_dump_json(indent=1) + "\n")


RECIPES: Mapping[str, Callable[[], Recipe]] = {"tiny-clip": Recipe}
"""What `scanomaly pretrain` can make."""


def recipe(name: str) -> Recipe:
    """Raises ConfigError listing the names there are."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]()


def load_plan(folder: Path) -> Recipe | None:
    """The pretraining that `folder` holds; None without one. Raises FitError if damaged."""
    file = folder / PLAN_FILE
    if not file.is_file():
        return None
    try:
        return Recipe.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise FitError(
            f"{file} is not the plan of a pretraining ({str(error).splitlines()[0]}); restore it "
            "or begin in another folder."
        ) from error
