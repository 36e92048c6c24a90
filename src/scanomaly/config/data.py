"""How images are read, and what a method asks of them."""

from typing import Literal

from pydantic import Field

from scanomaly.config.base import Frozen


class InputSpec(Frozen):
    """What a method asks of its images; `data` executes it."""

    side: int = Field(gt=0)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    library: Literal["torchvision", "pillow"] = "torchvision"
    """Which library's resize the paper used; both antialias when shrinking."""


class DataConfig(Frozen):
    """How images become arrays, and which of them are held out."""

    window: tuple[float, float] | None = None
    """Intensities mapped to 0 and 1 for images deeper than 8 bits; fitted on training images when
    None and recorded in run.yaml."""
    preprocess: Literal["none", "liver_roi"] = "none"
    """QFAE's liver preprocessing (crop to the organ, centre, bilateral filter)."""
    augmentation: Literal["none", "qfae"] = "none"
    calibration_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of training patients held out to calibrate when no normal validation image exists."""
    false_alarm_rate: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Share of healthy images that may be flagged."""
