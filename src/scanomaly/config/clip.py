"""What the configurations of methods on a CLIP share: the CLIP, its side, and the levels used."""

from typing import Self

from pydantic import Field, model_validator

from scanomaly.config.backbones import ClipConfig
from scanomaly.config.base import MethodConfig


class SidedClipConfig(MethodConfig):
    """A method on a frozen CLIP; MVFA and IQE-CLIP use the same one."""

    backbone: ClipConfig = ClipConfig(
        name="ViT-L-14-336/openai", side=240, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    """At 240 px, without normalisation, exact GELU (both specs, sections 2 and 3)."""

    @property
    def side(self) -> int:
        assert self.backbone.side is not None  # as validated
        return self.backbone.side

    @model_validator(mode="after")
    def _side_is_known(self) -> Self:
        if self.backbone.side is None:
            raise ValueError(
                "backbone.side is the side in pixels to which images are resized, got None; "
                "published: 240."
            )
        return self


class ClipMethodConfig(SidedClipConfig):
    """The same at several levels of the image tower."""

    blocks: tuple[int, ...] = Field(default=(5, 11, 17, 23), min_length=1)
    """Levels, counted from 0; published as layers 6, 12, 18 and 24."""

    @model_validator(mode="after")
    def _levels_are_in_order(self) -> Self:
        if min(self.blocks) < 0 or sorted(set(self.blocks)) != list(self.blocks):
            raise ValueError(
                f"blocks are counted from 0 and rise, such as (5, 11, 17, 23), got {self.blocks}."
            )
        return self
