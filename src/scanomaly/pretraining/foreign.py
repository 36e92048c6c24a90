"""Patch tokens that tell which places do not belong: learnt from pasted ones.

No anomaly and no word is needed to learn what all anomalies have in common.

B images, S side in pixels, N patches
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.data.foreign import paste
from scanomaly.pretraining.patches import PatchTokens
from scanomaly.pretraining.recipe import ForeignRecipe

FOREIGN_SHARE = 0.3
"""Of a patch that is changed: from there on it is foreign."""
FOREIGN_WEIGHT = 4.0
"""Of a foreign patch, as they are few."""


class Foreign(nn.Module):
    """The loss of patch tokens that should tell, linearly, which places are foreign."""

    def __init__(self, recipe: ForeignRecipe, width: int, grid: int) -> None:
        super().__init__()
        self.recipe, self.grid = recipe, grid
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1)) for _ in recipe.blocks
        )

    def paste(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) with foreign regions; which patches are foreign, bool (B, N)."""
        made, changed = paste(images, self.recipe.regions)
        return made, F.adaptive_avg_pool2d(changed, self.grid).flatten(1) > FOREIGN_SHARE

    def loss(self, tokens: PatchTokens, kept: Tensor | None, foreign: Tensor) -> Tensor:
        """Weighted. kept: which patches the tokens are of; foreign: of all patches, as pasted."""
        if kept is not None:
            foreign = foreign.take_along_dim(kept, dim=1)
        weight = torch.tensor(FOREIGN_WEIGHT, device=foreign.device)
        losses = [
            F.binary_cross_entropy_with_logits(
                head(level).squeeze(-1).float(), foreign.float(), pos_weight=weight
            )
            for head, level in zip(self.heads, (tokens[b] for b in self.recipe.blocks), strict=True)
        ]
        return self.recipe.weight * torch.stack(losses).mean()
