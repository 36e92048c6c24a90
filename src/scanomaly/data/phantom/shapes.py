"""Smooth irregular volumes: the bodies of lesions. Points are MNI mm; N points."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from scanomaly.data.phantom.fields import FloatArray, smooth_noise, smoothstep


@dataclass(frozen=True, slots=True)
class Blob:
    """An ellipsoid with a noise-perturbed boundary."""

    centre: FloatArray  # (3,) mm
    radius: float  # mm, geometric mean of the semi-axes
    axes: FloatArray  # (3, 3) rows: unit axes over their relative lengths
    roughness: float  # deviation of the boundary, relative to the radius
    grain: float  # correlation length of the boundary's noise, relative to the radius
    offset: FloatArray  # (3,) part of the noise volume used

    def outside(self, points: FloatArray) -> FloatArray:
        """Approximate signed distance in mm (N,) from the boundary, negative inside."""
        local = (points - self.centre) @ self.axes.T / np.float32(self.radius)
        reach = np.sqrt(np.einsum("nk,nk->n", local, local))  # 1 on the plain ellipsoid
        near = np.flatnonzero(reach < 1.5 + 4 * self.roughness)
        noise = smooth_noise(points[near], self.grain * self.radius, self.offset)[:, 0]
        reach[near] += self.roughness * np.clip(noise, -2.5, 2.5)
        return np.asarray((reach - 1) * self.radius, dtype=np.float32)

    def alpha(self, points: FloatArray, edge: float) -> FloatArray:
        """Share of each point inside, 0..1 (N,), falling over an edge of the given width in mm."""
        return smoothstep(0.5 - self.outside(points) / np.float32(edge))

    def scaled(self, factor: float) -> "Blob":
        """The same shape, larger or smaller about its centre."""
        return replace(self, radius=self.radius * factor)


def draw_blob(
    rng: np.random.Generator,
    centre: FloatArray,
    radius: float,
    roughness: float,
    grain: float = 0.8,
) -> Blob:
    """A blob with random orientation and elongation."""
    lengths = np.exp(rng.normal(0, 0.18, 3).clip(-0.35, 0.35))
    lengths /= np.prod(lengths) ** (1 / 3)
    axes = Rotation.from_quat(rng.standard_normal(4)).as_matrix() / lengths[:, None]
    return Blob(
        centre=centre,
        radius=radius,
        axes=axes.astype(np.float32),
        roughness=roughness,
        grain=grain,
        offset=rng.random(3).astype(np.float32),
    )
