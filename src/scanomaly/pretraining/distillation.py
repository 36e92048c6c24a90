"""What a network that saw real photographs finds in each place, taught to a CLIP's patch tokens.

A contrastive loss teaches the class token what an image is of; captions without anomalies leave the
patch tokens with hardly a sign of one. Source: feature distillation (FitNets, arXiv 1412.6550).

B images, N patches, K kept patches, W width, C channels of all stages together
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.backbones import build_backbone
from scanomaly.pretraining.patches import PatchTokens
from scanomaly.pretraining.recipe import DistillationRecipe

LEAST_DEVIATION = 1e-3


class Distillation(nn.Module):
    """The loss of patch tokens that should tell, linearly, what the teacher sees there."""

    def __init__(self, recipe: DistillationRecipe, width: int, grid: int) -> None:
        super().__init__()
        self.recipe, self.grid = recipe, grid
        teacher = build_backbone(recipe.teacher)
        self._teacher = [teacher]  # in a list: its weights are no part of what is trained
        channels = [teacher.width(stage) for stage in recipe.stages]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(channels)))
            for _ in recipe.blocks
        )
        shares = [torch.full((count,), 1 / (count * len(channels))) for count in channels]
        self._share = torch.cat(shares)  # (C,): every stage counts the same
        self._mean, self._deviation = torch.zeros(sum(channels)), torch.ones(sum(channels))

    @torch.no_grad()
    def scale_to(self, images: Iterable[Tensor]) -> None:
        """Standardise the targets over these batches (B, 3, S, S) in 0..1."""
        found = torch.cat([self._seen(batch).flatten(0, 1) for batch in images])
        self._mean, self._deviation = found.mean(dim=0), found.std(dim=0).clamp(LEAST_DEVIATION)

    def _seen(self, images: Tensor) -> Tensor:
        """(B, N, C): the teacher's stages on the student's grid."""
        maps = self._teacher[0].to(images.device).extract(images, self.recipe.stages).maps()
        return torch.cat([_on_grid(stage, self.grid) for stage in maps], dim=1).transpose(1, 2)

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """(B, N, C), of mean 0 and deviation 1 over the images of `scale_to`."""
        seen = self._seen(images)
        return (seen - self._mean.to(seen)) / self._deviation.to(seen)

    def loss(self, images: Tensor, tokens: PatchTokens, kept: Tensor | None) -> Tensor:
        """Weighted. kept: which patches the tokens are of."""
        targets = self.targets(images)
        if kept is not None:
            targets = targets.take_along_dim(kept[:, :, None], dim=1)
        share = self._share.to(targets)
        losses = [
            F.smooth_l1_loss(head(level).float(), targets, reduction="none") @ share
            for head, level in zip(self.heads, (tokens[b] for b in self.recipe.blocks), strict=True)
        ]
        return self.recipe.weight * torch.stack(losses).mean()


def _on_grid(stage: Tensor, grid: int) -> Tensor:
    """(B, D, h, w) -> (B, D, N)."""
    if stage.shape[-1] >= grid:
        return F.adaptive_avg_pool2d(stage, grid).flatten(2)
    return F.interpolate(stage, size=(grid, grid), mode="bilinear").flatten(2)
