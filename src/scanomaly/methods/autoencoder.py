"""The plain autoencoder of QFAE's Table 1: encoder patches, projected, straight to the decoder."""

from __future__ import annotations

from typing import Any, Self, final

import torch
from torch import Tensor, nn

from scanomaly.errors import ConfigError
from scanomaly.methods.reconstruction import ReconstructionDetector


class PatchesOnly(nn.Module):
    """Drops prefix tokens: the last `count` tokens are the patches of the tapped block."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, context: Tensor) -> Tensor:
        """(B, T, D) -> (B, count, D)."""
        return context[:, -self.count :]


@final
class Autoencoder(ReconstructionDetector):
    """QFAE without its junction; the decoder's patch must be the encoder's."""

    @classmethod
    def build(cls, config: Any) -> Self:
        """Raises ConfigError where the decoder draws on another grid than the encoder's."""
        detector = super().build(config)
        (encoder,) = detector.token_encoders()
        blank = torch.zeros(1, 3, config.side, config.side)
        grid = encoder.backbone.extract(blank, encoder.blocks).grids[-1]
        if grid != (config.grid, config.grid):
            raise ConfigError(
                f"the decoder draws {config.grid}x{config.grid} patches and the encoder sees "
                f"{grid[0]}x{grid[1]}; choose decoder.patch equal to the encoder's patch size."
            )
        return detector

    @staticmethod
    def width(config: Any) -> int:
        width: int = config.decoder.width
        return width

    @staticmethod
    def build_bottleneck(config: Any) -> nn.Module:
        return PatchesOnly(config.grid**2)
