"""What happens to skull, scalp and meninges: bone flap, burr hole, thick dura, filled sinus.

N points. Each change turns the layers of the healthy head into those of the ill one and says which
points a reader would mark.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from scanomaly.data.phantom.fields import BoolArray, FloatArray, smooth_noise, smoothstep
from scanomaly.data.phantom.heads.skull import Layers, Skull

MIDDLE = np.array([0.0, -17.0, 12.0], dtype=np.float32)  # mm: what the skull is round about


class SurfaceChange(Protocol):
    """A change of the layers outside the brain."""

    def apply(self, skull: Skull, layers: Layers) -> Layers:
        """The layers with the change."""
        ...

    def marks(self, layers: Layers, changed: Layers) -> BoolArray:
        """Points (N,) of the truth mask; layers: the healthy ones, changed: the ill ones."""
        ...


@dataclass(frozen=True, slots=True)
class Cap:
    """A round piece of the head's surface. direction: unit vector from MIDDLE; mm along the bone.

    radius: from MIDDLE to the bone. reach: half its width.
    """

    direction: FloatArray  # (3,)
    radius: float
    reach: float

    def distance(self, points: FloatArray) -> FloatArray:
        """Way in mm (N,) along the surface from the cap's centre."""
        arm = points - MIDDLE
        length = np.maximum(np.sqrt(np.einsum("nk,nk->n", arm, arm)), 1e-3)
        cosine = np.clip(arm @ self.direction / length, -1, 1)
        return np.asarray(self.radius * np.arccos(cosine), dtype=np.float32)


def cap_above(point: FloatArray, reach: float) -> Cap:
    """The cap over a point (3,) near the brain's surface."""
    arm = point - MIDDLE
    radius = float(np.linalg.norm(arm))
    return Cap((arm / radius).astype(np.float32), radius, reach)


@dataclass(frozen=True, slots=True)
class BoneFlap:
    """A piece of skull cut out and put back: gaps at its rim; swollen and with fluid if fresh. mm.

    Of a healed one only the gaps are marked.
    """

    cap: Cap
    gap: float  # width of the cut
    step: float  # how far the flap stands out, negative: sunk
    swelling: float  # of the scalp over it
    fluid: float  # thickness of what has gathered below it
    marrow: float  # how much of it is left, 0..1

    def apply(self, skull: Skull, layers: Layers) -> Layers:
        way = self.cap.distance(layers.points)
        inside = smoothstep((self.cap.reach - way) / 1.5 + 0.5)
        cut = smoothstep((self.gap / 2 - np.abs(way - self.cap.reach)) / 1.0 + 0.5)
        depth = layers.bone_depth - np.float32(self.step) * inside
        within = smoothstep(depth / 1.0 + 0.5) * smoothstep((layers.bone - depth) / 1.0 + 0.5)
        dome = smoothstep((self.cap.reach + 6 - way) / 12)
        above = smoothstep((depth - layers.bone) / 1.5) * dome
        under = smoothstep((layers.bone_depth + self.fluid * inside) / 1.2 + 0.5)
        under *= smoothstep(0.5 - depth / 1.2) * inside * (self.fluid > 0)
        return replace(
            layers,
            bone_depth=depth,
            skin_depth=layers.skin_depth + np.float32(self.swelling) * dome,
            marrow=layers.marrow * (1 - (1 - self.marrow) * inside),
            scar=np.maximum(cut * within, 0.65 * above * min(self.swelling / 3, 1)),
            cover=np.maximum(layers.cover, under),
            cover_value=np.full(len(way), skull.materials.scar, dtype=np.float32),
        )

    def marks(self, layers: Layers, changed: Layers) -> BoolArray:
        if self.marrow == 1:
            return np.asarray((changed.scar > 0.5) & (layers.scar <= 0.5))
        near = self.cap.distance(layers.points) < self.cap.reach + self.gap / 2
        outer = np.maximum(changed.bone, changed.bone + self.swelling - 1)
        deep = np.minimum(layers.bone_depth, changed.bone_depth) > -self.fluid - 0.3
        shown = deep & (changed.bone_depth < outer) & (changed.skin_depth > 0)
        return np.asarray(near & shown)


@dataclass(frozen=True, slots=True)
class BurrHole:
    """A hole drilled through the skull, filled with scar."""

    cap: Cap

    def apply(self, skull: Skull, layers: Layers) -> Layers:
        inside = smoothstep((self.cap.reach - self.cap.distance(layers.points)) / 1.5 + 0.5)
        depth, bone = layers.bone_depth, layers.bone
        within = smoothstep(depth / 1.0 + 0.5) * smoothstep((bone - depth) / 1.0 + 0.5)
        return replace(layers, scar=np.maximum(layers.scar, inside * within))

    def marks(self, layers: Layers, changed: Layers) -> BoolArray:
        return np.asarray((changed.scar > 0.5) & (layers.scar <= 0.5))


@dataclass(frozen=True, slots=True)
class ThickDura:
    """A band of thickened dura along the inner table, thinning out towards its ends. mm."""

    cap: Cap
    thickness: float

    def _width(self, skull: Skull, points: FloatArray) -> FloatArray:
        taper = smoothstep((self.cap.reach - self.cap.distance(points)) / (0.45 * self.cap.reach))
        waves = 1 + 0.15 * smooth_noise(points, 14.0, skull.offset)[:, 0]
        return np.asarray((self.thickness * waves + 1) * taper - 1, dtype=np.float32)

    def apply(self, skull: Skull, layers: Layers) -> Layers:
        depth = layers.bone_depth
        share = smoothstep((depth + self._width(skull, layers.points)) / 1.2 + 0.5)
        share *= smoothstep(0.5 - depth / 1.2)
        value = np.full(len(depth), skull.materials.dura, dtype=np.float32)
        return replace(layers, cover=np.maximum(layers.cover, share), cover_value=value)

    def marks(self, layers: Layers, changed: Layers) -> BoolArray:
        return np.asarray((changed.cover > 0.5) & (layers.cover <= 0.5))


@dataclass(frozen=True, slots=True)
class FilledSinus:
    """Fluid or swollen mucosa instead of air. shares (2,): of the right and the left sinus."""

    shares: tuple[float, float]

    def apply(self, skull: Skull, layers: Layers) -> Layers:
        right = smoothstep(layers.points[:, 0] / 2 + 0.5)
        filled = right * self.shares[0] + (1 - right) * self.shares[1]
        return replace(layers, mucosa=np.asarray(layers.air * filled, dtype=np.float32))

    def marks(self, layers: Layers, changed: Layers) -> BoolArray:
        return np.asarray(changed.mucosa > 0.4)
