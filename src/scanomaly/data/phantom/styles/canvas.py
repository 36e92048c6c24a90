"""Drawing on a square image with soft edges: ellipses, blobs, smooth fields, textures.

Lengths are pixels, intensities 0..1. S image side.
"""

import cv2
import numpy as np

from scanomaly.data.phantom.fields import (
    BoolArray,
    FloatArray,
    ImageArray,
    smooth_noise,
    smoothstep,
)
from scanomaly.data.phantom.patient import SIDE

ROWS, COLUMNS = np.indices((SIDE, SIDE), dtype=np.float32)
NODES_PER_LENGTH = 4  # of a smooth field, before it is enlarged to the image


def smooth_field(offset: FloatArray, length: float, depth: float = 0.0) -> FloatArray:
    """Three smooth fields of unit deviation (S, S, 3); neighbours in depth (pixels) are alike.

    offset (3,) in 0..1 selects the part of the noise volume.
    """
    step = next(s for s in (16, 8, 4, 2, 1) if s * NODES_PER_LENGTH <= length or s == 1)
    nodes = np.arange(0, SIDE, step, dtype=np.float32)
    rows, columns = np.meshgrid(nodes, nodes, indexing="ij")
    points = np.stack([rows.ravel(), columns.ravel(), np.full(rows.size, depth, np.float32)], -1)
    values = smooth_noise(points, length, offset).reshape(*rows.shape, 3)
    if step == 1:
        return values
    return np.asarray(cv2.resize(values, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))


def texture(rng: np.random.Generator, sigma: float, stretch: float = 1.0) -> FloatArray:
    """Fine noise (S, S) of unit deviation; sigma along the rows is `stretch` times that across."""
    raw = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    smooth = cv2.GaussianBlur(raw, (0, 0), sigmaX=sigma * stretch, sigmaY=sigma)
    return np.asarray((smooth - smooth.mean()) / smooth.std(), dtype=np.float32)


def ellipse(
    rows: FloatArray,
    columns: FloatArray,
    centre: tuple[float, float],
    axes: tuple[float, float],
    angle: float = 0.0,
) -> FloatArray:
    """Approximate signed distance (S, S) from an ellipse, negative inside.

    centre and axes: (row, column); angle: radians, turns the row axis towards the columns.
    """
    down, right = rows - np.float32(centre[0]), columns - np.float32(centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    first = (down * cos + right * sin) / np.float32(axes[0])
    second = (right * cos - down * sin) / np.float32(axes[1])
    return np.asarray((np.hypot(first, second) - 1) * np.float32(min(axes)), dtype=np.float32)


def inside(distance: FloatArray, edge: float = 1.5) -> FloatArray:
    """Share of each pixel inside, 0..1, of a signed distance that is negative inside."""
    return smoothstep(0.5 - distance / np.float32(edge))


def paint(image: FloatArray, alpha: FloatArray, value: FloatArray | float) -> None:
    """Lays a value over the image, in place."""
    image += alpha * (value - image)


def blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    radius: float,
    roughness: float = 0.15,
    edge: float = 2.0,
) -> FloatArray:
    """An irregular soft-edged spot: share of each pixel inside (S, S)."""
    ratio = float(np.exp(rng.uniform(-0.3, 0.3)))
    turn = rng.uniform(0, np.pi)
    distance = ellipse(ROWS, COLUMNS, centre, (radius * ratio, radius / ratio), turn)
    around = np.arctan2(ROWS - np.float32(centre[0]), COLUMNS - np.float32(centre[1]))
    for waves in (2, 3, 5, 8):
        phase = rng.uniform(0, 2 * np.pi)
        share = roughness * rng.normal() / np.sqrt(waves)
        distance -= np.float32(radius * share) * np.cos(waves * around + np.float32(phase))
    return inside(distance, min(edge, radius))


def pick(rng: np.random.Generator, allowed: BoolArray) -> tuple[float, float] | None:
    """A (row, column) drawn from allowed pixels (S, S); None where there are none."""
    places = np.flatnonzero(allowed)
    if not len(places):
        return None
    row, column = divmod(int(rng.choice(places)), SIDE)
    return float(row), float(column)


def far_inside(alpha: FloatArray, distance: float) -> BoolArray:
    """Pixels (S, S) at least so far inside a region."""
    solid = np.pad((alpha > 0.5).astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(solid, cv2.DIST_L2, 3)[1:-1, 1:-1] >= distance)


def to_image(values: FloatArray) -> ImageArray:
    """8 bits of intensities 0..1."""
    return np.asarray(np.round(255 * np.clip(values, 0, 1)), dtype=np.uint8)
