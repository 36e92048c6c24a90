"""The patch tokens of a CLIP in training, and which patches they are of.

B images, N patches, K kept patches, W width
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PatchTokens = Mapping[int, Tensor]
"""After each of some blocks: (B, K, W)."""


class RememberingDropout(nn.Module):
    """FLIP's patch dropout, as open_clip's own, that tells which patches were kept."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.kept: Tensor | None = None
        """(B, K) of the last batch; None when all were kept."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, W), class token first -> (B, 1 + K, W)."""
        self.kept = None
        if not self.training or self.share == 0:
            return tokens
        images, patches = tokens.shape[0], tokens.shape[1] - 1
        chances = torch.rand(images, patches, device=tokens.device)
        self.kept = chances.topk(max(1, int(patches * (1 - self.share))), dim=1).indices
        taken = tokens[:, 1:].take_along_dim(self.kept[:, :, None], dim=1)
        return torch.cat([tokens[:, :1], taken], dim=1)


@contextmanager
def patch_tokens(network: Any, blocks: Iterable[int]) -> Iterator[PatchTokens]:
    """Collects the patch tokens that open_clip's CLIP has after these blocks."""
    found: dict[int, Tensor] = {}

    def keep(block: int) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, tokens: found.update({block: tokens[:, 1:]})

    layers = network.visual.transformer.resblocks
    handles = [layers[block].register_forward_hook(keep(block)) for block in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
