"""Noise that a denoising reconstruction learns to remove.

B images, H W pixels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND = 0.02
"""Intensities (0..1) below this are air: noise is added to tissue only."""


def coarse_noise(image: Tensor, strength: float, cells: Sequence[int]) -> Tensor:
    """Images (B, 3, H, W) in 0..1 with smooth grey noise on their tissue, clipped to 0..1.

    Each image draws a grain size from `cells` and a standard deviation from 0 to `strength`.
    """
    batch, _, height, width = image.shape
    noise = torch.zeros(batch, 1, height, width, device=image.device)
    choice = torch.randint(len(cells), (batch,), device=image.device)
    for number, cell in enumerate(cells):
        chosen = choice == number
        count = int(chosen.sum())
        if count:
            noise[chosen] = _grain(count, cell, height, width, image.device)
    deviation = torch.rand(batch, 1, 1, 1, device=image.device) * strength
    tissue = image.amax(dim=1, keepdim=True) > BACKGROUND
    return (image + noise * deviation * tissue).clamp(0, 1)


def _grain(count: int, cell: int, height: int, width: int, device: torch.device) -> Tensor:
    """Bilinear noise of about unit deviation with a random offset: (count, 1, height, width)."""
    coarse = torch.randn(count, 1, height // cell + 2, width // cell + 2, device=device)
    smooth = F.interpolate(coarse, scale_factor=cell, mode="bilinear", align_corners=False)
    top, left = torch.randint(cell, (2,)).tolist()
    return smooth[:, :, top : top + height, left : left + width]
