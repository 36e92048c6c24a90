"""From tissue to grey values: MR contrast, texture, bias field, blur and Rician noise.

Intensities are 0..1. S image side, N brain pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from scanomaly.data.phantom.anatomy import TEXTURE_SCALE, TEXTURE_ZERO
from scanomaly.data.phantom.fields import BoolArray, FloatArray, ImageArray, smooth_noise


@dataclass(frozen=True, slots=True)
class Tissues:
    """Mean intensity of each tissue."""

    white: float
    grey: float
    csf: float


CONTRASTS: Mapping[str, Tissues] = MappingProxyType(
    {
        "T1": Tissues(white=0.60, grey=0.44, csf=0.14),
        "T2": Tissues(white=0.34, grey=0.47, csf=0.78),
        "FLAIR": Tissues(white=0.42, grey=0.50, csf=0.12),
    }
)


@dataclass(frozen=True, slots=True)
class Appearance:
    """How one patient's scan looks, apart from anatomy."""

    contrast: str
    tissues: Tissues
    texture: float  # share of the template's own T1 texture
    mottle: float  # relative deviation of tissue from point to point
    bias: float  # log deviation of the bias field
    noise: float  # deviation of the Rician noise
    blur: float  # pixels
    offset: FloatArray  # (3,) part of the noise volume used


def draw_appearance(rng: np.random.Generator, contrast: str) -> Appearance:
    """One patient's appearance round the contrast's means; the order of the tissues is kept."""
    mean = CONTRASTS[contrast]
    gain = rng.uniform(0.9, 1.1)
    spread = 1 + rng.uniform(-0.25, 0.25)  # of the grey-white difference
    middle, half = (mean.white + mean.grey) / 2, (mean.white - mean.grey) / 2
    tissues = Tissues(
        white=gain * (middle + spread * half),
        grey=gain * (middle - spread * half),
        csf=gain * mean.csf * rng.uniform(0.85, 1.1),
    )
    return Appearance(
        contrast=contrast,
        tissues=tissues,
        texture=rng.uniform(0.6, 1.0),
        mottle=rng.uniform(0.010, 0.022),
        bias=rng.uniform(0.02, 0.07),
        noise=rng.uniform(0.008, 0.025),
        blur=rng.uniform(0.35, 0.65),
        offset=rng.random(3).astype(np.float32),
    )


def tissue_intensity(appearance: Appearance, tissue: FloatArray, points: FloatArray) -> FloatArray:
    """Noise-free intensity (N,) of template samples tissue (N, 4) at MNI points (N, 3)."""
    white, grey, csf, stored = (tissue[:, c] for c in range(4))
    mean = appearance.tissues
    texture = (
        (stored - TEXTURE_ZERO) / TEXTURE_SCALE * appearance.texture * (mean.white - mean.grey)
    )
    base = (white * mean.white + grey * mean.grey + csf * mean.csf) / 255
    mottle = 1 + appearance.mottle * smooth_noise(points, 3.0, appearance.offset)[:, 0]
    return np.asarray(np.maximum((base + texture) * mottle, 0.02), dtype=np.float32)


def bias_field(appearance: Appearance, points: FloatArray) -> FloatArray:
    """Smooth multiplicative field (N,) at points (N, 3)."""
    field = smooth_noise(points, 60.0, appearance.offset + np.float32(0.37))[:, 0]
    return np.asarray(np.exp(appearance.bias * np.clip(field, -2.5, 2.5)), dtype=np.float32)


def blur(appearance: Appearance, image: FloatArray) -> FloatArray:
    """The scanner's point spread function on an image (S, S)."""
    return np.asarray(cv2.GaussianBlur(image, (5, 5), appearance.blur), dtype=np.float32)


def acquire(
    appearance: Appearance, clean: FloatArray, brain: BoolArray, rng: np.random.Generator
) -> ImageArray:
    """8-bit image (S, S) of a noise-free one: Rician noise, skull stripped, 1.0 always at 255."""
    real, imaginary = appearance.noise * rng.standard_normal((2, *clean.shape), dtype=np.float32)
    noisy = np.hypot(clean + real, imaginary)
    return np.asarray(np.round(255 * np.clip(noisy, 0, 1)) * brain, dtype=np.uint8)
