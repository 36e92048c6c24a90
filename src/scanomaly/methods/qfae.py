"""QFAE: a Q-Former bottleneck between a frozen foundation encoder and an image decoder.

Unsupervised: learns from normal images only. Source: WACV 2026, arXiv 2507.18481.
"""

from __future__ import annotations

from typing import Any, Self, final

from torch import nn

from scanomaly.errors import ConfigError
from scanomaly.methods.reconstruction import ReconstructionDetector
from scanomaly.nn.query_former import QueryFormer


@final
class QFAE(ReconstructionDetector):
    """Gives a score, a map and a pseudo-healthy reconstruction."""

    @classmethod
    def build(cls, config: Any) -> Self:
        """Raises ConfigError where local_start lacks a token for each query."""
        detector = super().build(config)
        tokens = sum(encoder.count for encoder in detector.token_encoders())
        if config.junction.local_start and tokens != config.junction.queries:
            raise ConfigError(
                f"junction.local_start needs one context token per query, got {tokens} tokens "
                f"for {config.junction.queries} queries; choose other blocks or switch it off."
            )
        return detector

    @staticmethod
    def width(config: Any) -> int:
        width: int = config.junction.width
        return width

    @staticmethod
    def build_bottleneck(config: Any) -> nn.Module:
        junction = config.junction
        return QueryFormer(
            junction.queries,
            junction.width,
            heads=junction.heads,
            cross_head_width=junction.cross_head_width,
            mlp_ratio=junction.mlp_ratio,
            dropout=junction.dropout,
            causal=junction.causal,
            residual=junction.residual,
            local_start=junction.local_start,
        )
