"""ViT weights at another patch size or image side (QFAE specification, section 3.4).

D width, C image channels, P prefix tokens, h w patch grid
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def _resized(images: Tensor, size: Grid) -> Tensor:
    return F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)


@cache
def _kernel_map(old: Grid, new: Grid) -> Tensor:
    """pinv(R^T), float64 (new pixels, old pixels); R resizes an old-sized image to the new size.

    Its columns are the resized basis images. The pseudo-inverse, rather than R itself, keeps the
    response to a resized patch that of the old kernel to the old patch (FlexiViT, section 3.4).
    """
    pixels = old[0] * old[1]
    basis = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, *old)
    inverse: Tensor = torch.linalg.pinv(_resized(basis, new).flatten(1))
    return inverse


def resample_kernel(kernel: Tensor, patch: Grid) -> Tensor:
    """A patch kernel (D, C, h, w) for patches of another size: (D, C, *patch), same kind."""
    old = (kernel.shape[2], kernel.shape[3])
    if old == patch:
        return kernel
    flat = kernel.detach().flatten(2).to(torch.float64)  # (D, C, old pixels)
    new = flat @ _kernel_map(old, patch).T.to(kernel.device)
    return new.to(kernel.dtype).reshape(*kernel.shape[:2], *patch)


def resample_positions(positions: Tensor, old: Grid, new: Grid) -> Tensor:
    """A position table (1, P + h * w of `old`, D) for the grid `new`: (1, P + h * w, D).

    Bicubic and antialiased in fp32; the P entries of prefix tokens stay as they are.
    Raises ValueError if the table is too small for its grid.
    """
    prefixes = positions.shape[1] - old[0] * old[1]
    if prefixes < 0:
        raise ValueError(f"a table of {positions.shape[1]} positions cannot cover a grid {old}.")
    if old == new:
        return positions
    table = positions.detach()[:, prefixes:].float()  # (1, h * w, D)
    table = _resized(table.transpose(1, 2).reshape(1, -1, *old), new)  # (1, D, h, w)
    table = table.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat([positions.detach()[:, :prefixes], table], dim=1)
