"""How a detector is trained."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from scanomaly.config.base import Frozen

Precision = Literal["fp32", "bf16", "fp16"]


ACCELERATORS: Mapping[str, str] = {"cuda": "gpu"}
"""Names of devices -> Lightning's names of accelerators, where they differ."""


class FitOptions(Frozen):
    """Options of the one gradient loop. Defaults: QFAE, specification section 6."""

    epochs: int = Field(default=300, gt=0)
    batch_size: int = Field(default=64, gt=0)
    """Images per optimiser step, over all devices and accumulated micro-batches together."""
    accumulate: int = Field(default=1, gt=0)
    """Micro-batches per optimiser step; numbers do not change, memory does."""
    learning_rate: float = Field(default=8e-5, gt=0)
    optimiser: Literal["adam", "adamw"] = "adam"
    schedule: Literal["one_cycle", "constant", "warm_up_cosine"] = "one_cycle"
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's; OneCycle cycles the first between 0.85 and 0.95 instead."""
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    """Share of all steps in which the learning rate rises (not for constant)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of every parameter, biases and norms too."""
    gradient_clip: float | None = None
    precision: Precision = "fp32"
    seed: int = 42
    devices: int = Field(default=1, gt=0)
    nodes: int = Field(default=1, gt=0)
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    workers: int = Field(default=0, ge=0)
    """Processes that decode images; 0 decodes in the training process."""
    patience: int | None = Field(default=None, gt=0)
    """Stop after so many epochs without a better validation loss; needs validation images."""
    warm_start: str | None = None
    """Begin from these weights: a name from `assets/` or the path of a model.safetensors."""
    cache_features: bool = False
    """Compute frozen features of the training images once; needs augmentation to be off."""

    @model_validator(mode="after")
    def _batch_divides(self) -> "FitOptions":
        parts = self.accumulate * self.devices * self.nodes
        if self.batch_size % parts:
            raise ValueError(
                f"fit.batch_size {self.batch_size} is not a multiple of accumulate x devices x "
                f"nodes = {parts}; use {max(1, self.batch_size // parts) * parts}."
            )
        return self

    @property
    def micro_batch(self) -> int:
        """Images that one process sees at once."""
        return self.batch_size // (self.accumulate * self.devices * self.nodes)
