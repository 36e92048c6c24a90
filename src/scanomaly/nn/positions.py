"""Fixed position tables and patch order."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_table(width: int, rows: int, columns: int) -> Tensor:
    """Two-dimensional sin-cos positions (rows * columns, width), patches row-major.

    The column fills the first half: [sin(c w), cos(c w), sin(r w), cos(r w)].
    """
    if width % 4:
        raise ValueError(f"expected a width that is a multiple of 4, got {width}.")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    angles = [axis.reshape(-1, 1) * frequencies for axis in (column, row)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(B, L, patch * patch * C), channel fastest, -> image (B, C, H, W)."""
    rows, columns = grid
    tiles = patches.unflatten(2, (patch, patch, -1)).unflatten(1, (rows, columns))
    # B rows columns p_row p_column C -> B C rows p_row columns p_column
    image: Tensor = tiles.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    return image
