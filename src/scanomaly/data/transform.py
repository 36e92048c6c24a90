"""From decoded images to a method's square input, and from its maps back to the image's own grid.

S side of the method's input, H W pixels of the image as read
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from scanomaly.config.data import InputSpec

Preprocess = Literal["none", "liver_roi"]

LIVER_SIDE = 224
_BILATERAL_DIAMETER, _BILATERAL_SIGMA = 9, 75.0
_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
_PILLOW_MODES = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels; height or width 0 is an empty one."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )

    @property
    def is_empty(self) -> bool:
        return self.height == 0 or self.width == 0


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where an image's pixels went: `source` of the image became `target` of a square canvas.

    size: (H, W) of the image. canvas: pixels a side before the last resize to `side` = S.
    """

    size: tuple[int, int]
    side: int
    source: Box
    canvas: int
    target: Box

    def to_input_grid(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """A map (S, S) or picture (S, S, C) on the image's own grid: float32 (H, W[, C]), bilinear.

        Pixels that the method never saw are 0.
        """
        if array.shape[:2] != (self.side, self.side) or array.ndim not in (2, 3):
            raise ValueError(
                f"expected a map ({self.side}, {self.side}) or ({self.side}, {self.side}, C), "
                f"got {array.shape}."
            )
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        channels = values.reshape(self.side, self.side, -1).permute(2, 0, 1)  # (C, S, S)
        whole = torch.zeros(channels.shape[0], *self.size)
        if not self.source.is_empty:
            canvas = _resize_tensor(channels, (self.canvas, self.canvas))
            content = canvas[:, *self.target.slices]
            size = (self.source.height, self.source.width)
            whole[:, *self.source.slices] = _resize_tensor(content, size)
        back: NDArray[np.float32] = whole.permute(1, 2, 0).numpy()
        return back if array.ndim == 3 else back[..., 0]


def _resize_tensor(
    image: Tensor, size: tuple[int, int], mode: InterpolationMode = InterpolationMode.BILINEAR
) -> Tensor:
    """(C, h, w) to (C, *size), antialiased when it shrinks (nearest never is)."""
    if tuple(image.shape[-2:]) == size:
        return image
    resized: Tensor = tv.resize(image, list(size), interpolation=mode, antialias=True)
    return resized


def _whole(image: NDArray[Any], side: int) -> tuple[NDArray[Any], Geometry]:
    height, width = image.shape[:2]
    geometry = Geometry(
        size=(height, width),
        side=side,
        source=Box(0, 0, height, width),
        canvas=side,
        target=Box(0, 0, side, side),
    )
    return image, geometry


def liver_boxes(grey: NDArray[np.uint8]) -> tuple[Box, Box]:
    """(box of all pixels above 0, its place on the 224x224 canvas) of a grey image (H, W).

    A box larger than the canvas shrinks to fit; a smaller one keeps its size; both are centred.
    An all-black image gives empty boxes. Source: QFAE liver preprocessing (spec bmad section 7).
    """
    rows, columns = np.flatnonzero(grey.any(axis=1)), np.flatnonzero(grey.any(axis=0))
    if rows.size == 0:
        return Box(0, 0, 0, 0), Box(0, 0, 0, 0)
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
    scale = min(1.0, LIVER_SIDE / height, LIVER_SIDE / width)
    # A sliver would round to no pixel at all.
    high, wide = max(1, int(height * scale)), max(1, int(width * scale))
    target = Box((LIVER_SIDE - high) // 2, (LIVER_SIDE - wide) // 2, high, wide)
    return Box(top, left, height, width), target


def _liver_roi(image: NDArray[Any], side: int) -> tuple[NDArray[Any], Geometry]:
    """Crop to the organ, centre on 224x224 and smooth: uint8 (224, 224, 3)."""
    if image.dtype != np.uint8:
        # Published: each image's own minimum and maximum. Here the recorded window has been
        # applied, so that the same tissue keeps the same grey in every image.
        image = (image * 255).round().astype(np.uint8)
    grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), np.uint8)
    source, target = liver_boxes(grey)
    canvas = np.zeros((LIVER_SIDE, LIVER_SIDE), np.uint8)
    if not source.is_empty:
        size = (target.width, target.height)
        crop = grey[source.slices]
        canvas[target.slices] = cv2.resize(crop, size, interpolation=cv2.INTER_LINEAR)
    smooth = cv2.bilateralFilter(canvas, _BILATERAL_DIAMETER, _BILATERAL_SIGMA, _BILATERAL_SIGMA)
    geometry = Geometry(
        size=(image.shape[0], image.shape[1]),
        side=side,
        source=source,
        canvas=LIVER_SIDE,
        target=target,
    )
    return np.repeat(smooth[..., None], 3, axis=2), geometry


PREPROCESSES: Mapping[str, Callable[[NDArray[Any], int], tuple[NDArray[Any], Geometry]]] = {
    "none": _whole,
    "liver_roi": _liver_roi,
}
"""Name -> (image (H, W, 3), S) to (image on its canvas, geometry)."""


def _with_torchvision(image: NDArray[Any], spec: InputSpec) -> Tensor:
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    resized = _resize_tensor(tensor, (spec.side, spec.side), _MODES[spec.interpolation])
    # Bicubic overshoots; uint8 is clamped by torchvision itself.
    return resized.clamp(0.0, 1.0) if resized.is_floating_point() else resized


def _with_pillow(image: NDArray[Any], spec: InputSpec) -> Tensor:
    size, mode = (spec.side, spec.side), _PILLOW_MODES[spec.interpolation]
    if image.dtype == np.uint8:
        pixels = np.array(Image.fromarray(image).resize(size, mode))
    else:
        channels = [Image.fromarray(image[..., c]).resize(size, mode) for c in range(3)]
        pixels = np.stack([np.asarray(c) for c in channels], axis=2).clip(0.0, 1.0)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


_RESIZES: Mapping[str, Callable[[NDArray[Any], InputSpec], Tensor]] = {
    "torchvision": _with_torchvision,
    "pillow": _with_pillow,
}


def resize_image(
    image: NDArray[Any], spec: InputSpec, preprocess: Preprocess = "none"
) -> tuple[Tensor, Geometry]:
    """An image as read (H, W, 3) at the method's side: (3, S, S), still uint8 if it was.

    Augmentation goes on this; the aspect ratio is not kept (spec qfae section 2).
    """
    prepared, geometry = PREPROCESSES[preprocess](image, spec.side)
    return _RESIZES[spec.library](prepared, spec), geometry


def to_unit(image: Tensor) -> Tensor:
    """uint8 or float (3, S, S) to float32 in 0..1: the last step of all."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def prepare(
    image: NDArray[Any], spec: InputSpec, preprocess: Preprocess = "none"
) -> tuple[Tensor, Geometry]:
    """An image as read (H, W, 3) to a method's input, float (3, S, S) in 0..1, and the way back."""
    resized, geometry = resize_image(image, spec, preprocess)
    return to_unit(resized), geometry


def _nearest_of_torchvision(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (1, h, w) to (1, *size): of the pixels that meet, the first."""
    return _resize_tensor(mask, size, InterpolationMode.NEAREST)


def _nearest_of_pillow(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (1, h, w) to (1, *size): of the pixels that meet, the middle one."""
    height, width = size
    resized = Image.fromarray(mask[0].numpy()).resize((width, height), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized))[None]


_NEAREST: Mapping[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "torchvision": _nearest_of_torchvision,
    "pillow": _nearest_of_pillow,
}


def prepare_mask(mask: NDArray[np.bool_], geometry: Geometry, spec: InputSpec) -> Tensor:
    """A mask (H, W) moved as its image was, by the spec's library's nearest: bool (1, S, S)."""
    if mask.shape != geometry.size:
        raise ValueError(f"expected a mask of the image's size {geometry.size}, got {mask.shape}.")
    resize = _NEAREST[spec.library]
    canvas = torch.zeros(1, geometry.canvas, geometry.canvas, dtype=torch.uint8)
    if not geometry.source.is_empty:
        crop = torch.from_numpy(mask[geometry.source.slices].astype(np.uint8))[None]
        size = (geometry.target.height, geometry.target.width)
        canvas[:, *geometry.target.slices] = resize(crop, size)
    return resize(canvas, (geometry.side, geometry.side)).bool()
