"""Difference maps -> image score and pixel map: pure functions.

I maps (blocks or levels), B images, H W pixels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

POOL = 8


def upsample(maps: Tensor, side: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Bilinear (B, C, h, w) -> (B, C, *side) in fp32."""
    return F.interpolate(maps.float(), size=side, mode="bilinear", align_corners=align_corners)


def mean_filter(maps: Tensor, side: int) -> Tensor:
    """Mean over side x side pixels (odd), borders reflected: (B, C, H, W), same shape."""
    return F.avg_pool2d(F.pad(maps, [side // 2] * 4, mode="reflect"), side, stride=1)


def mean_over_maps(maps: Tensor) -> Tensor:
    """(I, B, 1, H, W) -> (B, 1, H, W)."""
    return maps.mean(dim=0)


def max_over_maps(maps: Tensor) -> Tensor:
    """(I, B, 1, H, W) -> (B, 1, H, W)."""
    return maps.amax(dim=0)


def pooled_maximum(maps: Tensor) -> Tensor:
    """8x8 average pooling, maximum over maps, bilinear back: (I, B, 1, H, W) -> (B, 1, H, W)."""
    pooled = F.avg_pool2d(maps.flatten(0, 1), POOL).unflatten(0, maps.shape[:2])
    return upsample(pooled.amax(dim=0), (maps.shape[-2], maps.shape[-1]))


def geometric_mean(maps: Tensor) -> Tensor:
    """(I, B, 1, H, W) -> (1, B, 1, H, W): a plain product of many small numbers underflows."""
    return maps.clamp_min(1e-12).log().mean(dim=0, keepdim=True).exp()


IMAGE_SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean.mean": lambda maps: maps.mean(dim=(2, 3, 4)).mean(dim=0),
    "mean.max": lambda maps: maps.mean(dim=(2, 3, 4)).amax(dim=0),
    "max.mean": lambda maps: maps.amax(dim=(2, 3, 4)).mean(dim=0),
    "max.max": lambda maps: maps.amax(dim=(2, 3, 4)).amax(dim=0),
    "pixelwise_mean_max": lambda maps: mean_over_maps(maps).amax(dim=(1, 2, 3)),
    "pixelwise_max_mean": lambda maps: max_over_maps(maps).mean(dim=(1, 2, 3)),
    "downsample_8x8": lambda maps: pooled_maximum(maps).mean(dim=(1, 2, 3)),
}
"""Maps (I, B, 1, H, W) -> image scores (B,). `<over pixels>.<over maps>` or a named rule."""

PIXEL_MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": mean_over_maps,
    "max": max_over_maps,
    "pooled": pooled_maximum,
}
"""Maps (I, B, 1, H, W) -> one pixel map (B, 1, H, W)."""
