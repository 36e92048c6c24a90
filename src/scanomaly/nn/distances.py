"""Differences between an image and its reconstruction, in feature space or in pixels.

B images, D channels, h w grid, H W pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from scanomaly.maps import mean_filter, upsample

Distance = Callable[[Tensor, Tensor], Tensor]
"""(B, D, h, w) twice -> (B, 1, h, w), 0 = equal."""

SSIM_WINDOW = 7
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
RESIDUAL_WINDOW, TEXTURE_WINDOW = 3, 7
TEXTURE_FLOOR = 0.5
"""Added to the local deviation, in normalised units: flat tissue is compared with this."""


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


def _luminance_and_structure(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's two factors (B, D, H, W), uniform window."""
    mean_x, mean_y = mean_filter(x, SSIM_WINDOW), mean_filter(y, SSIM_WINDOW)
    var_x = mean_filter(x * x, SSIM_WINDOW) - mean_x**2
    var_y = mean_filter(y * y, SSIM_WINDOW) - mean_y**2
    covariance = mean_filter(x * y, SSIM_WINDOW) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    return luminance, (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)


def ssim(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - structural similarity, uniform window of 7, data range 1, mean over channels."""
    luminance, structure = _luminance_and_structure(reference.float(), reconstruction.float())
    return 1 - (luminance * structure).mean(dim=1, keepdim=True)


def ms_ssim(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - multi-scale SSIM (Wang 2003) as a map: each scale's factor enlarged, then multiplied.

    Halves the images until the window no longer fits; weights of the scales used sum to 1.
    """
    x, y = reference.float(), reconstruction.float()
    size = (x.shape[-2], x.shape[-1])
    scales = min(len(SCALE_WEIGHTS), int(math.log2(max(1, min(size) // SSIM_WINDOW))) + 1)
    total = sum(SCALE_WEIGHTS[:scales])
    product = torch.ones_like(x)
    for scale, weight in enumerate(SCALE_WEIGHTS[:scales]):
        luminance, structure = _luminance_and_structure(x, y)
        factor = luminance * structure if scale == scales - 1 else structure
        product = product * upsample(factor.clamp_min(1e-6), size) ** (weight / total)
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return 1 - product.mean(dim=1, keepdim=True)


def local_residual(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Locally averaged difference over the reference's local deviation, mean over channels.

    A blurred edge is no anomaly, and a faint difference in flat tissue is one.
    """
    x = reference.float()
    difference = mean_filter(x - reconstruction.float(), RESIDUAL_WINDOW).abs()
    variance = mean_filter(x * x, TEXTURE_WINDOW) - mean_filter(x, TEXTURE_WINDOW) ** 2
    texture = variance.clamp_min(0).sqrt() + TEXTURE_FLOOR
    return (difference / texture).mean(dim=1, keepdim=True)


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
    "ms_ssim": ms_ssim,
    "colour_cosine": cosine,
    "local_residual": local_residual,
}
"""On normalised pixels, except that SSIM's constants assume a data range of 1."""
