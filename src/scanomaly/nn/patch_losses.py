"""Patches against text, and the losses on what comes out. MVFA and IQE-CLIP share them.

Source: arXiv 2403.12570, section 3.2, and the released code (spec section 6).

B images, L = h * w patches, D width, H W S pixels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_GAMMA = 2
SMOOTHING = 1e-5
"""Keeps the target and the logarithm of focal loss away from 0."""
DICE_SMOOTHING = 1.0


def text_logits(tokens: Tensor, text: Tensor, scale: float) -> Tensor:
    """Cosine times `scale` of tokens (B, L, D) and text (D, 2) or (B, D, 2), unit: (B, L, 2)."""
    return scale * (F.normalize(tokens.float(), dim=-1) @ text.float())


def level_map(logits: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Upsampled, then softmax: (B, L, 2) -> probabilities (B, 2, side, side), abnormal second."""
    maps = logits.transpose(1, 2).unflatten(2, grid)  # (B, 2, h, w)
    size = (side, side)
    fine = F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=True)
    return fine.softmax(dim=1)


def patch_scores(logits: Tensor, pooling: str = "mean") -> Tensor:
    """Abnormal probability of each patch, pooled over patches: (B, L, 2) -> (B,)."""
    return POOLINGS[pooling](logits.float().softmax(dim=-1)[..., 1])


def mean_over_patches(values: Tensor) -> Tensor:
    """(B, L) -> (B,)."""
    return values.mean(dim=1)


def max_over_patches(values: Tensor) -> Tensor:
    """(B, L) -> (B,)."""
    return values.amax(dim=1)


POOLINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": mean_over_patches,
    "max": max_over_patches,
}


def focal(maps: Tensor, mask: Tensor) -> Tensor:
    """Focal loss of probabilities (B, 2, H, W) against a mask (B, 1, H, W), as a scalar."""
    abnormal = mask.to(maps.dtype)
    target = torch.cat([1 - abnormal, abnormal], dim=1).clamp(SMOOTHING, 1 - SMOOTHING)
    hit = (target * maps).sum(dim=1) + SMOOTHING  # (B, H, W)
    return (-((1 - hit) ** FOCAL_GAMMA) * hit.log()).mean()


def dice(abnormal: Tensor, mask: Tensor) -> Tensor:
    """1 - smoothed Dice of each image's abnormal map (B, H, W) and mask, averaged to a scalar.

    mask: (B, H, W) or (B, 1, H, W).
    """
    found, wanted = abnormal.flatten(1), mask.flatten(1).to(abnormal.dtype)
    overlap = 2 * (found * wanted).sum(dim=1) + DICE_SMOOTHING
    return (1 - overlap / (found.sum(dim=1) + wanted.sum(dim=1) + DICE_SMOOTHING)).mean()


def bce_of_logits(score: Tensor, label: Tensor) -> Tensor:
    """Published: the probability (B,) is taken as a logit."""
    return F.binary_cross_entropy_with_logits(score, label.to(score.dtype))


def bce_of_probability(score: Tensor, label: Tensor) -> Tensor:
    """The paper's formula, on the probability (B,) itself."""
    return F.binary_cross_entropy(score.clamp(0, 1), label.to(score.dtype))


DETECTION_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": bce_of_logits,
    "plain": bce_of_probability,
}
"""Image score (B,) and label (B,) -> scalar."""
