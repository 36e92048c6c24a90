"""How images are read, which of them supervise, and what a method asks of them."""

import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from scanomaly.config.base import Frozen
from scanomaly.errors import ConfigError


class InputSpec(Frozen):
    """What a method asks of its images; `data` executes it."""

    side: int = Field(gt=0)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    library: Literal["torchvision", "pillow"] = "torchvision"
    """Which library's resize the paper used; both antialias images when shrinking, and each has
    its own nearest neighbour for masks."""


SUPPORTS = r"published|(?:seed|test):\d+"
"""What `DataConfig.support` may be."""

_REQUIRED: Mapping[str, str] = {"few_shot": "shots", "zero_shot": "target"}
_BELONGS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("shots", "support"), ("few_shot",)),
    **dict.fromkeys(("target", "exclude_siblings", "training_folder"), ("zero_shot",)),
    **dict.fromkeys(("pasted", "pasted_into"), ("few_shot", "zero_shot")),
}
"""Field -> the supervisions that it means something for."""


class DataConfig(Frozen):
    """How images become arrays, which of them supervise, and which are held out."""

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

    supervision: Literal["normals", "few_shot", "zero_shot"] = "normals"
    """What teaches: the normal images of train, a few labelled images, or the other data sets of a
    folder (leave one out)."""
    shots: int | None = Field(default=None, gt=0)
    """few_shot: so many normal and as many abnormal images of the valid split."""
    support: str = "published"
    """few_shot: `published` is the benchmark's list; `seed:7` draws distinct patients from valid.
    `test:7`, for sets without a valid split, draws normal images from train and abnormal ones from
    test, which are then not scored."""
    target: str | None = Field(default=None, min_length=1)
    """zero_shot: the data set that is left out."""
    exclude_siblings: bool = False
    """zero_shot: leave out sets of the target's modality too; the published protocol does not."""
    training_folder: Literal["valid", "test", "train"] = "valid"
    """zero_shot: the split of the other sets that is trained on; MVFA and IQE-CLIP took test."""
    copies: Literal["none", "mvfa"] = "none"
    """Fixed copies of every training image: MVFA's eleven (rotated, shifted, flipped)."""
    pasted: int = Field(default=0, ge=0)
    """few_shot, zero_shot: so many abnormal images made of every normal training image, by pasting
    places that do not belong there (ours: the lesions of a few sets look alike)."""
    pasted_into: Literal["all", "label_only"] = "all"
    """label_only: only into sets without masks, which else teach nowhere where anomalies are."""

    @field_validator("support")
    @classmethod
    def _support_is_known(cls, value: str) -> str:
        if not re.fullmatch(SUPPORTS, value):
            raise ValueError(
                f"expected published, seed:NUMBER or test:NUMBER (such as seed:7), got {value!r}."
            )
        return value

    @model_validator(mode="after")
    def _fields_fit_the_supervision(self) -> Self:
        for field, supervisions in _BELONGS.items():
            value = getattr(self, field)
            left_out = value == type(self).model_fields[field].default
            if not left_out and self.supervision not in supervisions:
                raise ValueError(
                    f"data.{field}={value} belongs to data.supervision={' or '.join(supervisions)},"
                    f" got {self.supervision}; leave it out or change the supervision."
                )
        return self

    def pastes_into(self, *, masked: bool) -> bool:
        """Whether normal images of a set with masks, or of one without, are pasted into."""
        return self.pasted_into == "all" or not masked

    def require_complete(self) -> None:
        """Raises ConfigError where the supervision lacks what only a user can say."""
        needed = _REQUIRED.get(self.supervision)
        if needed is not None and getattr(self, needed) is None:
            raise ConfigError(
                f"data.supervision={self.supervision} needs data.{needed}: give --{needed}."
            )

    @model_validator(mode="after")
    def _one_kind_of_augmentation(self) -> Self:
        if self.copies != "none" and self.augmentation != "none":
            raise ValueError(
                f"data.copies={self.copies} keeps masks in place and data.augmentation="
                f"{self.augmentation} does not; set one of them to none."
            )
        return self
