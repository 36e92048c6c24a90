"""All that crosses rooms. Shapes are checked once, here.

B images, H W pixels, L patches, D width, P prefix tokens, h w patch grid, E other widths
"""

from __future__ import annotations

import math
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
    reconstruction: float (B, 3, H, W) in 0..1. parts: maps (B, 1, h, w) and scores (B,) of
    branches and levels, for figures; the first word of a name is the branch, such as `text_map`,
    `text_block_5` and `text_score`. map_range: the map's values that are shown as nothing and as
    certain; None without calibration.
    """

    score: Tensor
    anomaly_map: Tensor
    reconstruction: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    map_range: tuple[float, float] | None = None

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
        for name, part in self.parts.items():
            got = tuple(part.shape)
            fits = got == (count,) or (len(got) == 4 and got[:2] == (count, 1))
            _require(fits, f"part {name!r} ({count},) or ({count}, 1, h, w)", got)


@dataclass(frozen=True, slots=True)
class Triple:
    """What a detector shows of a batch, as three pictures: the image, its map, how healthy looks.

    image, anomaly_map, reconstruction: float (B, 3, H, W) in 0..1 each.
    """

    image: Tensor
    anomaly_map: Tensor
    reconstruction: Tensor
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = tuple(self.image.shape)
        _require(self.image.ndim == 4 and shape[1] == 3, "image of shape (B, 3, H, W)", shape)
        for name, picture in zip(self.names(), self.pictures, strict=True):
            got = tuple(picture.shape)
            _require(got == shape, f"{name} {shape} as the image", got)
            _require(picture.is_floating_point(), f"a floating-point {name}", picture.dtype)
        _require(len(self.ids) == shape[0], f"{shape[0]} ids", len(self.ids))

    @staticmethod
    def names() -> tuple[str, str, str]:
        """What the three pictures are called, in their order."""
        return "image", "anomaly_map", "reconstruction"

    @property
    def pictures(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three of them, in the order of `names`."""
        return self.image, self.anomaly_map, self.reconstruction

    @classmethod
    def of(
        cls,
        batch: Batch,
        prediction: Prediction,
        map_range: tuple[float, float] | None = None,
    ) -> Self:
        """The triple of a prediction.

        map_range: the map's values that become black and white; the same for every image, so that
        "nothing found" stays black. None: the prediction's own, which `FittedDetector.predict`
        gives it, and 0 to 1 where it has none. Raises ValueError for a prediction without
        reconstruction, for one at another size than the batch, and for an empty range.
        """
        map_range = map_range or prediction.map_range or (0.0, 1.0)
        low, high = map_range
        _require(low < high, "a map_range of two values, the lower one first", map_range)
        if prediction.reconstruction is None:
            raise ValueError(
                "expected a prediction with a reconstruction, got none; use a method that makes "
                "one: qfae or autoencoder."
            )
        scaled = ((prediction.anomaly_map - low) / (high - low)).clamp(0.0, 1.0)
        return cls(
            image=batch.image,
            anomaly_map=scaled.expand(-1, 3, -1, -1),
            reconstruction=prediction.reconstruction,
            ids=batch.ids,
        )

    def __len__(self) -> int:
        return len(self.ids)


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
class Embedding:
    """Vectors of a batch's images that a figure shows as points.

    vectors: (B, E), one of each image, or (B, L, E) of a square of patches, row-major. figure,
    row, column: where they are shown. series: their kind, where one place shows several.
    """

    figure: str
    row: str
    column: str
    vectors: Tensor
    series: str = ""

    def __post_init__(self) -> None:
        shape = tuple(self.vectors.shape)
        _require(len(shape) in (2, 3), "vectors (B, E) or (B, L, E)", shape)
        if len(shape) == 3:
            _require(math.isqrt(shape[1]) ** 2 == shape[1], "a square of L patches", shape[1])


@dataclass(frozen=True, slots=True)
class Draw:
    """One training draw: an image, and the epoch that decides its augmentation (None: none)."""

    epoch: int | None
    index: int
