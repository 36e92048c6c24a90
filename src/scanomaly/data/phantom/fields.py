"""Sampled 3-D fields: trilinear look-up and one shared periodic noise volume.

N points, C channels, X Y Z grid.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
ImageArray = npt.NDArray[np.uint8]

NOISE_SIDE = 64
NOISE_SIGMA = 2.0  # voxels: correlation length of the noise volume


@dataclass(frozen=True, slots=True)
class Grid:
    """A field on a regular grid. values: (X, Y, Z, C); origin (3,) and step in mm."""

    values: npt.NDArray[np.uint8] | FloatArray
    origin: FloatArray
    step: float

    def sample(self, points: FloatArray) -> FloatArray:
        """Trilinear values at points (N, 3) in mm, edge values outside. Returns (N, C)."""
        limit = np.array(self.values.shape[:3], dtype=np.float32) - np.float32(1.001)
        return trilinear(
            self.values, np.clip((points - self.origin) / np.float32(self.step), 0, limit)
        )


def trilinear(values: npt.NDArray[np.uint8] | FloatArray, position: FloatArray) -> FloatArray:
    """Trilinear look-up of values (X, Y, Z, C) at position (N, 3) in voxels.

    Positions outside wrap round. Returns (N, C).
    """
    shape = values.shape
    low = np.floor(position).astype(np.int64)  # (N, 3)
    part = (position - low).astype(np.float32)
    ends = [(low[:, a] % shape[a], (low[:, a] + 1) % shape[a]) for a in range(3)]
    weights = [(1 - part[:, a], part[:, a]) for a in range(3)]
    flat = values.reshape(-1, shape[3])
    result = np.zeros((len(position), shape[3]), dtype=np.float32)
    for i, j, k in product((0, 1), repeat=3):
        corner = (ends[0][i] * shape[1] + ends[1][j]) * shape[2] + ends[2][k]
        share = weights[0][i] * weights[1][j] * weights[2][k]
        result += flat.take(corner, axis=0) * share[:, None]
    return result


@cache
def _noise_volume() -> FloatArray:
    """Periodic smooth noise (64, 64, 64, 3), mean 0, deviation 1, the same in every process."""
    raw = np.random.default_rng(152).standard_normal((NOISE_SIDE,) * 3 + (3,))
    smooth = ndimage.gaussian_filter(raw, (NOISE_SIGMA,) * 3 + (0,), mode="wrap")
    smooth -= smooth.mean(axis=(0, 1, 2))
    return np.asarray(smooth / smooth.std(axis=(0, 1, 2)), dtype=np.float32)


def smooth_noise(points: FloatArray, length: float, offset: FloatArray) -> FloatArray:
    """Smooth noise of unit deviation at points (N, 3) in mm with correlation length in mm.

    offset (3,) in 0..1 selects the part of the noise volume. Returns three fields (N, 3).
    """
    return trilinear(
        _noise_volume(), points * np.float32(NOISE_SIGMA / length) + offset * NOISE_SIDE
    )


def smoothstep(value: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(value, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
