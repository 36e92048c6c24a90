"""The papers' augmentations: pure functions of an image and a random generator."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

Augmentation = Callable[[Tensor, Generator], Tensor]

# Source: QFAE, released configuration (spec section 6).
CROP_SCALE = (0.9, 1.0)
CROP_RATIO = (0.8, 1.2)
ROTATION_DEGREES = 10.0
FLIP_PROBABILITY = 0.5
JITTER = (0.9, 1.1)

_CROP_TRIES = 10


def seeded(*parts: int) -> Generator:
    """A generator that depends on `parts` alone, such as (seed, epoch, index)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _uniform(bounds: tuple[float, float], generator: Generator) -> float:
    low, high = bounds
    return low + (high - low) * torch.rand((), generator=generator).item()


def draw_crop(height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) as torchvision's RandomResizedCrop draws it.

    Area uniform in CROP_SCALE, aspect ratio log-uniform in CROP_RATIO, ten tries to fit.
    """
    logarithms = (math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1]))
    for _ in range(_CROP_TRIES):
        area = height * width * _uniform(CROP_SCALE, generator)
        ratio = math.exp(_uniform(logarithms, generator))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top = int(torch.randint(0, height - high + 1, (), generator=generator))
            left = int(torch.randint(0, width - wide + 1, (), generator=generator))
            return top, left, high, wide
    # A square image always fits whole; torchvision's ratio-clamped centre crop is that too.
    return 0, 0, height, width


def augment_qfae(image: Tensor, generator: Generator) -> Tensor:
    """QFAE's training augmentation on an already square image (3, S, S), uint8 or float in 0..1.

    Crop and resize back, rotate by up to 10 degrees, flip top to bottom, then brightness and
    contrast in random order (QFAE, spec section 6). The same generator state gives the same image.
    """
    height, width = image.shape[-2:]
    top, left, high, wide = draw_crop(height, width, generator)
    image = tv.resized_crop(image, top, left, high, wide, [height, width], antialias=True)
    angle = _uniform((-ROTATION_DEGREES, ROTATION_DEGREES), generator)
    image = tv.rotate(image, angle, interpolation=InterpolationMode.NEAREST, fill=[0.0])
    if torch.rand((), generator=generator).item() < FLIP_PROBABILITY:
        image = tv.vertical_flip(image)
    return jitter(image, generator, JITTER, (tv.adjust_brightness, tv.adjust_contrast))


def jitter(
    image: Tensor,
    generator: Generator,
    bounds: tuple[float, float],
    adjustments: Sequence[Callable[[Tensor, float], Tensor]],
) -> Tensor:
    """Each adjustment with a factor drawn from `bounds`, in random order (ColorJitter)."""
    factors = [_uniform(bounds, generator) for _ in adjustments]
    for which in torch.randperm(len(adjustments), generator=generator).tolist():
        image = adjustments[which](image, factors[which])
    return image


def keep(image: Tensor, generator: Generator) -> Tensor:
    """No augmentation."""
    return image


AUGMENTATIONS: Mapping[str, Augmentation] = {"none": keep, "qfae": augment_qfae}
