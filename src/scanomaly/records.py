"""All that crosses rooms. Shapes are checked once, here.

B images, H W pixels, L patches, D width, P prefix tokens, h w patch grid, E pooled width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor


def _require(condition: bool, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"expected {expected}, got {got}.")


@dataclass(frozen=True, slots=True)
class Batch:
    """Images on their way into a detector, already at the detector's own side.

    image: float (B, 3, H, W) in 0..1, not normalised. label: bool (B,), True = abnormal.
    mask: bool (B, 1, H, W), True = abnormal pixel; zeros where has_mask, bool (B,), is False.
    has_mask None: every image has its mask where there is any. datasets: the data set each image
    belongs to; empty when unknown.
    """

    image: Tensor
    ids: tuple[str, ...]
    label: Tensor | None = None
    mask: Tensor | None = None
    has_mask: Tensor | None = None
    datasets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.image.shape)
        _require(self.image.ndim == 4 and shape[1] == 3, "image of shape (B, 3, H, W)", shape)
        _require(self.image.is_floating_point(), "a floating-point image", self.image.dtype)
        _require(len(self.ids) == shape[0], f"{shape[0]} ids", len(self.ids))
        if self.label is not None:
            _require(self.label.shape == (shape[0],), "label (B,)", tuple(self.label.shape))
        if self.mask is not None:
            expected = (shape[0], 1, *shape[2:])
            _require(self.mask.shape == expected, f"mask {expected}", tuple(self.mask.shape))
        if self.has_mask is not None:
            _require(self.mask is not None, "a mask beside has_mask", None)
            got = tuple(self.has_mask.shape)
            _require(got == (shape[0],), "has_mask (B,)", got)
            _require(self.has_mask.dtype == torch.bool, "a bool has_mask", self.has_mask.dtype)
        if self.datasets:
            _require(len(self.datasets) == shape[0], f"{shape[0]} datasets", len(self.datasets))

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on `device`."""
        return replace(
            self,
            image=self.image.to(device),
            label=None if self.label is None else self.label.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            has_mask=None if self.has_mask is None else self.has_mask.to(device),
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a detector says of a batch.

    score: float (B,), higher = more anomalous. anomaly_map: float (B, 1, H, W).
    reconstruction: float (B, 3, H, W) in 0..1. parts: named maps or scores of levels and branches.
    """

    score: Tensor
    anomaly_map: Tensor
    reconstruction: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.score.ndim == 1, "score of shape (B,)", tuple(self.score.shape))
        count = self.score.shape[0]
        shape = tuple(self.anomaly_map.shape)
        _require(
            len(shape) == 4 and shape[:2] == (count, 1), f"anomaly_map ({count}, 1, H, W)", shape
        )
        if self.reconstruction is not None:
            expected = (count, 3, *shape[2:])
            got = tuple(self.reconstruction.shape)
            _require(got == expected, f"reconstruction {expected}", got)


@dataclass(frozen=True, slots=True)
class Features:
    """Token features of a backbone, one entry per requested block or stage.

    patches: (B, L, D) each, L = h * w, row-major. prefix: (B, P, D) class and register tokens,
    P = 0 for a CNN. grids: (h, w) each. pooled: (B, E), CLIP only.
    """

    patches: tuple[Tensor, ...]
    prefix: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    pooled: Tensor | None = None

    def __post_init__(self) -> None:
        for patches, (rows, columns) in zip(self.patches, self.grids, strict=True):
            _require(patches.ndim == 3, "patches (B, L, D)", tuple(patches.shape))
            _require(patches.shape[1] == rows * columns, f"L = {rows * columns}", patches.shape[1])

    def maps(self) -> tuple[Tensor, ...]:
        """The patch tokens as (B, D, h, w) maps."""
        return tuple(
            patches.transpose(1, 2).unflatten(2, grid)
            for patches, grid in zip(self.patches, self.grids, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Draw:
    """One training draw: an image, and the epoch that decides its augmentation (None: none)."""

    epoch: int | None
    index: int
