"""Places that do not belong: pasted into healthy images, as anomalies that nobody has to label.

What all anomalies have in common is that they are not like the rest of the image. Source: foreign
patch interpolation (arXiv 2011.04197), with smooth regions and sources of our choice.

B images, S side in pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

RADII = (0.03, 0.15)
"""Of a region's half axes, as shares of the image's side."""
WAVES = ((3, 0.15), (5, 0.1))
"""Of a region's edge: how many around, and how high as a share of the radius."""
EDGES = (0.005, 0.02)
"""Over which a region fades out, as shares of the side."""
LEAST_OPACITY = 0.5
TISSUE, IN_TISSUE = 0.05, 0.8
"""What is brighter is tissue; share of the regions that stay in it."""
SEEN = 0.04
"""Change of brightness that counts."""
MOST_GAIN, MOST_OFFSET = 0.7, 0.3
SMOOTHED = 9
"""Pixels over which a smooth place was averaged."""


Draws = Callable[..., Tensor]
"""torch.rand, from one generator and on one device."""


def _elsewhere(images: Tensor, rand: Draws) -> Tensor:
    """The same image, another place."""
    shares = (6 * rand(2) + 1) / 8  # at least an eighth of the side away, to any direction
    down, right = (int(share * side) for share, side in zip(shares, images.shape[-2:], strict=True))
    return images.roll((down, right), dims=(2, 3))


def _another(images: Tensor, rand: Draws) -> Tensor:
    """Another image of the batch, often of another style."""
    return images[rand(len(images)).argsort()]


def _other_light(images: Tensor, rand: Draws) -> Tensor:
    """Brighter, darker, with more or less contrast."""
    drawn = 2 * rand(2, len(images), 1, 1, 1) - 1
    return images * (1 + MOST_GAIN * drawn[0]) + MOST_OFFSET * drawn[1]


def _smooth(images: Tensor, rand: Draws) -> Tensor:
    """Without detail, and of another brightness; of another colour where there are colours."""
    flat = images
    for kernel in ((SMOOTHED, 1), (1, SMOOTHED)):
        around = tuple(side // 2 for side in kernel)
        flat = F.avg_pool2d(flat, kernel, stride=1, padding=around, count_include_pad=False)
    mean = images.mean(dim=1, keepdim=True)
    variance = (images - mean).square().sum(dim=1) / (images.shape[1] - 1)
    colours = variance.flatten(1).amax(dim=1) > SEEN**2  # (B,)
    grey, tint = (rand(len(images), channels, 1, 1) - 0.5 for channels in (1, 3))
    return flat + torch.where(colours[:, None, None, None], tint, grey)


SOURCES: Sequence[Callable[[Tensor, Draws], Tensor]] = (_another, _elsewhere, _other_light, _smooth)
"""What a region shows in place of the image: images (B, 3, S, S) to as many."""


def paste(
    images: Tensor, regions: int, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) in 0..1 with none to `regions` foreign regions each, and where.

    Returns the images and the changed pixels, float (B, 1, S, S) of zeros and ones. Everything
    random comes from the generator: torch's own without one.
    """
    rand = partial(torch.rand, generator=generator, device=images.device)
    made, changed = images, torch.zeros_like(images[:, :1])
    for _ in range(regions):
        count = len(images)
        opacity = LEAST_OPACITY + (1 - LEAST_OPACITY) * rand(count)
        opacity = opacity * (rand(count) < 0.5)
        region = _regions(images, rand) * opacity[:, None, None, None]
        pasted = made + region * (_sources(made, rand).clamp(0, 1) - made)
        seen = (pasted - made).abs().amax(dim=1, keepdim=True) > SEEN
        made, changed = pasted, changed.maximum(seen.float())
    return made, changed


def _sources(images: Tensor, rand: Draws) -> Tensor:
    """Of each image another of SOURCES."""
    count = len(images)
    chosen = (rand(count) * len(SOURCES)).long()
    made = torch.stack([source(images, rand) for source in SOURCES])
    return made[chosen, torch.arange(count, device=images.device)]


def _regions(images: Tensor, rand: Draws) -> Tensor:
    """A wavy ellipse in each image: (B, 1, S, S) in 0..1, fading at its edge."""
    count, side = len(images), images.shape[-1]

    def between(low: float, high: float) -> Tensor:
        return (low + (high - low) * rand(count))[:, None, None]

    place = (torch.arange(side, device=images.device) + 0.5) / side
    x, y = place - between(0.05, 0.95), place[:, None] - between(0.05, 0.95)
    turn, phase = between(0, math.pi), between(0, 2 * math.pi)
    long, short = (between(*map(math.log, RADII)).exp() for _ in range(2))
    along = (x * turn.cos() + y * turn.sin()) / long
    beside = (y * turn.cos() - x * turn.sin()) / short
    angle = torch.atan2(beside, along)
    wave = sum(high * torch.sin(number * angle + number * phase) for number, high in WAVES)
    reach = torch.hypot(along, beside) * (1 + wave)
    inside = torch.sigmoid((1 - reach) * torch.minimum(long, short) / between(*EDGES))[:, None]
    anywhere = rand(count, 1, 1, 1) >= IN_TISSUE
    return inside * (anywhere | (images.amax(dim=1, keepdim=True) > TISSUE))
