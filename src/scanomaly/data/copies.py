"""Fixed copies of a few labelled images: pure functions of an image or a mask.

C channels, H W pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Copy = Callable[[Tensor], Tensor]
"""float (C, H, W) to the same shape."""

# Source: MVFA, released code (spec section 7); radians, and halves of the image's side.
ANGLES = (-math.pi / 8, -math.pi / 16, math.pi / 16, math.pi / 8)
SHIFTS = ((0.1, 0.1), (-0.1, 0.1), (-0.1, -0.1), (0.1, -0.1))


def unchanged(image: Tensor) -> Tensor:
    return image


def rotated(angle: float) -> Copy:
    cosine, sine = math.cos(angle), math.sin(angle)
    return _moved(((cosine, -sine, 0.0), (sine, cosine, 0.0)))


def shifted(across: float, down: float) -> Copy:
    return _moved(((1.0, 0.0, across), (0.0, 1.0, down)))


def flipped(axis: int) -> Copy:
    def flip(image: Tensor) -> Tensor:
        return image.flip(axis)

    return flip


def _moved(matrix: tuple[tuple[float, ...], ...]) -> Copy:
    """Bilinear sampling at matrix @ (x, y, 1) in -1..1; what lies outside is the mirrored image."""

    def move(image: Tensor) -> Tensor:
        theta = torch.tensor(matrix, dtype=image.dtype, device=image.device)[None]
        grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)  # (1, H, W, 2)
        return F.grid_sample(image[None], grid, padding_mode="reflection", align_corners=False)[0]

    return move


MVFA_COPIES: tuple[Copy, ...] = (
    unchanged,
    *(rotated(angle) for angle in ANGLES),
    *(shifted(across, down) for across, down in SHIFTS),
    flipped(-1),
    flipped(-2),
)

COPIES: Mapping[str, tuple[Copy, ...]] = {"none": (unchanged,), "mvfa": MVFA_COPIES}
"""`DataConfig.copies` -> what each image becomes, the image itself first."""


def copy_mask(copy: Copy, mask: Tensor) -> Tensor:
    """A mask bool (1, H, W) moved as its image was: interpolated, then True above 0.5."""
    return copy(mask.float()) > 0.5
