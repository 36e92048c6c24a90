"""Acquisition artefacts as changes of a noise-free image (S, S), confined to a region."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np

from scanomaly.data.phantom.fields import FloatArray

Pattern = Callable[
    [FloatArray, FloatArray], FloatArray
]  # (image (S, S), draw (3,) in 0..1) -> change (S, S)


def ghosting(image: FloatArray, draw: FloatArray) -> FloatArray:
    """Fading copies of the head's outlines along the phase direction, left by motion."""
    step, axis = 7 + int(9 * draw[0]), int(draw[1] > 0.5)  # pixels
    outlines = image - cv2.GaussianBlur(image, (0, 0), 4)
    copies = [
        (-0.85) ** k * np.roll(outlines, way * k * step, axis)
        for k in range(1, 6)
        for way in (-1, 1)
    ]
    ghost = np.sum(copies, axis=0)
    nearby = np.sqrt(cv2.GaussianBlur(ghost**2, (0, 0), 8)) + 0.01
    return np.asarray(image.max() * np.tanh(ghost / nearby), dtype=np.float32)


def spike(image: FloatArray, draw: FloatArray) -> FloatArray:
    """Stripes: one corrupted sample of k-space."""
    period, angle = 4 + 6 * draw[0], np.pi * draw[1]  # pixels, radians
    rows, columns = np.indices(image.shape, dtype=np.float32)
    phase = 2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / period
    return np.asarray(np.cos(phase + 2 * np.pi * draw[2]) * image.max(), dtype=np.float32)


def dropout(image: FloatArray, draw: FloatArray) -> FloatArray:
    """Signal lost to a local field disturbance."""
    return -image


PATTERNS: Mapping[str, Pattern] = MappingProxyType(
    {"ghosting": ghosting, "spike": spike, "dropout": dropout}
)
