"""Triples of pictures to the three tensors that an answerer sees.

Source: KQ-Former VQA-UAD, released code (spec section 3): 256x256 with OpenCV, a 224x224 crop,
colour jitter in training, (x - 0.5) / 0.5.

B images, H W pixels of a picture, R side after resizing, S side of the crop; channels red first
until `colour` says otherwise
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from scanomaly.config.vqa import VqaDataConfig
from scanomaly.data.augment import jitter, seeded
from scanomaly.data.images import read_image
from scanomaly.data.transform import to_unit
from scanomaly.records import Triple

logger = logging.getLogger(__name__)

Images = tuple[Tensor, Tensor, Tensor]
"""Image, anomaly map and reconstruction: float (3, S, S) or (B, 3, S, S) each, in -1..1."""
Pictures = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""The same as read and resized: uint8, or float32 in 0..1; (R, R, 3) each."""

MEAN = STD = 0.5
_ADJUSTMENTS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
_CHANNELS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rgb": lambda image: image,
    "bgr": lambda image: image.flip(-3),
}


def read_pictures(paths: tuple[Path, Path, Path], data: VqaDataConfig) -> Pictures:
    """Three files, resized to the same side whatever theirs.

    Files of different shapes are stretched, as published, with a warning: their places may not
    agree. Raises DataError for a missing or damaged file, and for one deeper than 8 bits without
    `data.window`.
    """
    image, anomaly_map, reconstruction = (read_image(path, data.window) for path in paths)
    _compare_shapes(paths, [image, anomaly_map, reconstruction])
    side = data.resize
    return _resized(image, side), _resized(anomaly_map, side), _resized(reconstruction, side)


def _compare_shapes(paths: Sequence[Path], pictures: Sequence[NDArray[Any]]) -> None:
    height, width = pictures[0].shape[:2]
    for path, picture in zip(paths[1:], pictures[1:], strict=True):
        high, wide = picture.shape[:2]
        # within a pixel of the same shape: a smaller copy of the same view
        if abs(high * width - wide * height) > max(height, width, high, wide):
            logger.warning(
                "%s has %dx%d pixels (height x width), its image %s has %dx%d: they are stretched "
                "to the same square and their places may not agree.",
                *(path, high, wide, paths[0].name, height, width),
            )


def _resized(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_LINEAR)


def evaluation_images(pictures: Pictures, data: VqaDataConfig) -> Images:
    """The centre of each."""
    at = round((data.resize - data.crop) / 2)
    image, anomaly_map, reconstruction = (
        _normalised(_cut(picture, at, at, data.crop), data) for picture in pictures
    )
    return image, anomaly_map, reconstruction


def training_images(pictures: Pictures, data: VqaDataConfig, seed: tuple[int, ...]) -> Images:
    """A random crop of each and jittered colours; the same `seed` gives the same tensors.

    With `data.joint_crop` the three share crop and jitter, as the same generator draws them.
    """
    image, anomaly_map, reconstruction = (
        _augmented(picture, data, (*seed, 0 if data.joint_crop else place))
        for place, picture in enumerate(pictures)
    )
    return image, anomaly_map, reconstruction


def _augmented(picture: NDArray[Any], data: VqaDataConfig, seed: tuple[int, ...]) -> Tensor:
    generator = seeded(*seed)
    corners = data.resize - data.crop + 1
    top, left = (int(torch.randint(0, corners, (), generator=generator)) for _ in range(2))
    image = _CHANNELS[data.colour](_cut(picture, top, left, data.crop))
    if data.jitter > 0:
        bounds = (1 - data.jitter, 1 + data.jitter)
        image = jitter(image, generator, bounds, _ADJUSTMENTS)
    return (image - MEAN) / STD


def mirrored(images: Images) -> Images:
    """Left to right."""
    image, anomaly_map, reconstruction = (picture.flip(-1) for picture in images)
    return image, anomaly_map, reconstruction


def triple_images(triple: Triple, data: VqaDataConfig) -> Images:
    """A triple at any size as `evaluation_images` of its files would be: (B, 3, S, S) each.

    Values are rounded to 8 bits, as they would be in a PNG. Raises ValueError for values that are
    not finite.
    """
    for name, picture in zip(triple.names(), triple.pictures, strict=True):
        if not picture.isfinite().all():
            raise ValueError(f"expected a finite {name}, got NaN or infinity; mend the detector.")
    stacked = [_to_pixels(picture) for picture in triple.pictures]
    each = [
        evaluation_images((image, anomaly_map, reconstruction), data)
        for image, anomaly_map, reconstruction in zip(
            *([_resized(picture, data.resize) for picture in batch] for batch in stacked),
            strict=True,
        )
    ]
    device = triple.image.device
    image, anomaly_map, reconstruction = (
        torch.stack(list(batch)).to(device) for batch in zip(*each, strict=True)
    )
    return image, anomaly_map, reconstruction


def _to_pixels(picture: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in 0..1 to uint8 (B, H, W, 3)."""
    scaled = (picture.detach().float().clamp(0.0, 1.0) * 255).round().byte()
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _cut(picture: NDArray[Any], top: int, left: int, side: int) -> Tensor:
    """A square of a picture (R, R, 3) as float (3, S, S) in 0..1."""
    crop = np.ascontiguousarray(picture[top : top + side, left : left + side])
    return to_unit(torch.from_numpy(crop).permute(2, 0, 1))


def _normalised(image: Tensor, data: VqaDataConfig) -> Tensor:
    return (_CHANNELS[data.colour](image) - MEAN) / STD
