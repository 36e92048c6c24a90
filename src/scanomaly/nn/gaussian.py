"""Gaussian smoothing of maps, as scipy does it, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

TRUNCATE = 4.0
"""The kernel ends at so many standard deviations; scipy's default."""


def gaussian_filter(maps: Tensor, sigma: float) -> Tensor:
    """Smooth maps (..., H, W) in fp32; sigma in pixels, 0 leaves them as they are.

    Equals scipy.ndimage.gaussian_filter over the last two axes: edges are mirrored, edge pixel
    included, as often as the kernel is wide.
    """
    if sigma == 0:
        return maps
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = (_smoothing(size, sigma).to(maps.device) for size in maps.shape[-2:])
        return rows @ maps.float() @ columns.T


def _smoothing(size: int, sigma: float) -> Tensor:
    """One axis as a matrix (size, size): in row i, each pixel's weight in the smoothed pixel i."""
    radius = int(TRUNCATE * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = (-0.5 * (steps / sigma) ** 2).exp()
    pixels = torch.arange(size)
    source = (pixels[:, None] + steps.long()) % (2 * size)  # mirrored, an axis repeats after 2 size
    source = torch.where(source < size, source, 2 * size - 1 - source)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, source, (weights / weights.sum()).expand(size, -1))
    return matrix.float()
