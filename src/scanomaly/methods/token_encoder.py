"""A frozen network's tapped blocks as the context tokens of a reconstruction.

B images, T tokens, D width, H W pixels
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.backbones.base import Backbone
from scanomaly.errors import ConfigError
from scanomaly.nn.positions import sincos_table
from scanomaly.records import Features

LEAST_SPREAD = 0.05
"""Of the mean channel's: one that training images never excite must not drown all others in an
image that does."""


def merge_tokens(features: Features) -> Tensor:
    """Prefix and patch tokens of each block, one block after the other: (B, sum of T, D)."""
    widths = [patches.shape[2] for patches in features.patches]
    if len(set(widths)) > 1:
        raise ConfigError(
            f"tapped blocks of widths {widths} cannot be joined as tokens; set merge: channels."
        )
    return torch.cat(
        [part for pair in zip(features.prefix, features.patches, strict=True) for part in pair],
        dim=1,
    )


def merge_channels(features: Features) -> Tensor:
    """Every map folded onto the coarsest grid, channels concatenated: (B, L, sum of D * f * f)."""
    rows = min(grid[0] for grid in features.grids)
    folded = [F.pixel_unshuffle(m, m.shape[2] // rows) for m in features.maps()]
    return torch.cat(folded, dim=1).flatten(2).transpose(1, 2)


MERGES = {"tokens": merge_tokens, "channels": merge_channels}


class TokenEncoder(nn.Module):
    """A frozen network's tapped blocks, merged and projected to the model's width."""

    shift: Tensor
    scale: Tensor
    positions: Tensor

    def __init__(
        self,
        backbone: Backbone,
        blocks: Sequence[int],
        width: int,
        *,
        side: int,
        merge: str = "tokens",
        standardise: bool = False,
        positions: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks = tuple(blocks)
        self.merge = MERGES[merge]
        with torch.no_grad():
            tokens = self.tokens(torch.zeros(1, 3, side, side))
        self.count = tokens.shape[1]
        self.projection = nn.Linear(tokens.shape[2], width)
        self.standardise = standardise
        self.register_buffer("shift", torch.zeros(tokens.shape[2]), persistent=standardise)
        self.register_buffer("scale", torch.ones(tokens.shape[2]), persistent=standardise)
        table = _square_table(tokens.shape[1], width) if positions else torch.zeros(1, 1)
        self.register_buffer("positions", table, persistent=False)

    def tokens(self, image: Tensor) -> Tensor:
        """Frozen tokens (B, T, D) of images in 0..1."""
        return self.merge(self.backbone.extract(image, self.blocks))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, width)."""
        scaled = (tokens - self.shift) * self.scale if self.standardise else tokens
        projected: Tensor = self.projection(scaled)
        return projected + self.positions

    @property
    def is_fitted(self) -> bool:
        return bool(self.shift.any())

    def fit_scale(self, image: Tensor) -> None:
        """Set the channels' shift and scale from training images (B, 3, H, W)."""
        with torch.no_grad():
            tokens = self.tokens(image).float().flatten(0, 1)
        spread = tokens.std(dim=0)
        self.shift.copy_(tokens.mean(dim=0))
        self.scale.copy_(1 / spread.clamp_min(float(LEAST_SPREAD * spread.mean()) + 1e-6))


def _square_table(count: int, width: int) -> Tensor:
    side = math.isqrt(count)
    if side * side != count:
        raise ConfigError(
            f"positions need one square grid without prefix tokens, got {count} tokens; "
            "they are meant for convolutional encoders."
        )
    return sincos_table(width, side, side)
