"""Differences between an image and its reconstruction, in feature space or in pixels.

B images, D channels, h w grid, H W pixels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]
"""(B, D, h, w) twice -> (B, 1, h, w), 0 = equal."""

SSIM_WINDOW = 7
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def cosine(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - cosine over channels; norms clamped at 1e-8."""
    return 1 - F.cosine_similarity(reference.float(), reconstruction.float(), dim=1)[:, None]


def l1(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean absolute difference over channels."""
    return (reference.float() - reconstruction.float()).abs().mean(dim=1, keepdim=True)


def l2(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared difference over channels."""
    return (reference.float() - reconstruction.float()).square().mean(dim=1, keepdim=True)


def _one_value_per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1).expand(-1, 1, *like.shape[-2:])


def l2_total(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared difference over everything, one value per image."""
    return _one_value_per_image(l2(reference, reconstruction).mean(dim=(1, 2, 3)), reference)


def cosine_total(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - cosine of the whole feature map as one vector, one value per image."""
    flat = cosine(reference.flatten(1)[..., None, None], reconstruction.flatten(1)[..., None, None])
    return _one_value_per_image(flat, reference)


def ssim(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - structural similarity, uniform window of 7, data range 1, mean over channels."""

    def smooth(x: Tensor) -> Tensor:
        padded = F.pad(x, [SSIM_WINDOW // 2] * 4, mode="reflect")
        return F.avg_pool2d(padded, SSIM_WINDOW, stride=1)

    x, y = reference.float(), reconstruction.float()
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return 1 - (luminance * structure).mean(dim=1, keepdim=True)


FEATURE_DISTANCES: Mapping[str, Distance] = {
    "cosine": cosine,
    "l1": l1,
    "l2": l2,
    "l2_total": l2_total,
    "cosine_total": cosine_total,
}

PIXEL_DISTANCES: Mapping[str, Distance] = {
    "mae": l1,
    "mse": l2,
    "ssim": ssim,
    "colour_cosine": cosine,
}
"""On normalised pixels, except that SSIM's constants assume a data range of 1."""
