"""CFLOW's maps, image by image.

B images, N positions of a stage, S side in pixels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scanomaly.maps import upsample


class FlowMaps(nn.Module):
    """In place of anomalib's AnomalyMapGenerator of CFLOW, which compares a batch's images.

    There likelihoods are relative to the highest of the batch, in the paper to the highest of the
    test set; here to the highest of the training images, which is kept with the model.
    """

    highest: Tensor
    """Of each stage, log-likelihood."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.register_buffer("highest", torch.zeros(stages))
        self.seen: list[Tensor] | None = None

    def forward(
        self,
        distribution: Sequence[Tensor],
        height: Sequence[int],
        width: Sequence[int],
        image_size: tuple[int, int],
    ) -> Tensor:
        """Log-likelihoods (B * N,) of each stage -> (B, S, S), higher = less likely."""
        if self.seen is not None:
            self.seen.append(torch.stack([stage.max() for stage in distribution]))
        maps = [
            upsample((stage - top).exp().reshape(-1, 1, *grid), image_size, align_corners=True)
            for stage, top, *grid in zip(distribution, self.highest, height, width, strict=True)
        ]
        return (len(maps) - torch.cat(maps, dim=1).sum(dim=1)).float()
