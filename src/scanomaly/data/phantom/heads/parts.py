"""Parts of brain lesions beyond plain blobs: fluid, what lies in or round ventricles, the septum.

N brain pixels of a slice. Each is a Part of lesions.py.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from scanomaly.data.phantom.fields import BoolArray, FloatArray, smooth_noise, smoothstep
from scanomaly.data.phantom.lesions import Component, tissues_of
from scanomaly.data.phantom.patient import SliceField

KEPT_TEXTURE = 0.08  # share of the tissue's pattern that a filling keeps


def _filled(value: float, base: FloatArray) -> FloatArray:
    """One intensity with a little of the tissue's pattern (N,)."""
    return np.asarray(value + KEPT_TEXTURE * (base - base.mean()), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Filling:
    """A shape filled with something of a known intensity, 0..1, such as fluid."""

    shape: Component
    value: float

    def alpha(self, slice_: SliceField) -> FloatArray:
        return self.shape.alpha(slice_)

    def target(self, base: FloatArray, inside: BoolArray) -> FloatArray:
        return _filled(self.value, base)

    def scaled(self, factor: float) -> Self:
        return replace(self, shape=self.shape.scaled(factor))


@dataclass(frozen=True, slots=True)
class Strands:
    """A shape in which tissue has given way to fluid, more in some places than in others."""

    shape: Component
    value: float
    offset: FloatArray  # (3,) part of the noise volume used

    def alpha(self, slice_: SliceField) -> FloatArray:
        noise = smooth_noise(slice_.points, 2.6, self.offset)[:, 0]
        kept = 0.8 * smoothstep((noise - 0.3) / 0.8)
        return np.asarray(self.shape.alpha(slice_) * (1 - kept), dtype=np.float32)

    def target(self, base: FloatArray, inside: BoolArray) -> FloatArray:
        return _filled(self.value, base)

    def scaled(self, factor: float) -> Self:
        return replace(self, shape=self.shape.scaled(factor))


@dataclass(frozen=True, slots=True)
class VentricleCaps:
    """A band of changed white matter along the ventricles, thick at their horns, ragged outside."""

    width: float  # mm
    growth: float  # mm: how far this patient's ventricle wall is out
    look: Component  # its strength and evenness; its blobs are not used
    offset: FloatArray  # (3,)

    def alpha(self, slice_: SliceField) -> FloatArray:
        white, grey, _ = tissues_of(slice_)
        wall = slice_.shape[:, 0] - max(self.growth, 0)
        noise = smooth_noise(slice_.points, 5.0, self.offset)[:, 0]
        y = slice_.points[:, 1]
        horns = 0.35 + 0.65 * np.maximum(smoothstep((y - 8) / 14), smoothstep((-22 - y) / 14))
        band = self.width * horns * (1 + 0.35 * noise)
        share = smoothstep((band - wall) / 2.0) * smoothstep((wall + 1.5) / 1.5)
        return np.asarray(share * np.clip(white + 0.3 * grey, 0, 1), dtype=np.float32)

    def target(self, base: FloatArray, inside: BoolArray) -> FloatArray:
        return self.look.target(base, inside)

    def scaled(self, factor: float) -> Self:
        return replace(self, width=self.width * factor)


@dataclass(frozen=True, slots=True)
class InVentricles:
    """Something within the ventricles: a clot (shape), or what has sunk below a level (mm, y)."""

    value: float
    growth: float  # mm
    shape: Component | None = None
    level: float = -26.0

    def alpha(self, slice_: SliceField) -> FloatArray:
        _, _, csf = tissues_of(slice_)
        wall = slice_.shape[:, 0] - max(self.growth, 0)
        within = smoothstep((1.5 - wall) / 1.5) * smoothstep((csf - 0.35) / 0.3)
        if self.shape:
            return np.asarray(within * self.shape.alpha(slice_), dtype=np.float32)
        return np.asarray(within * smoothstep((self.level - slice_.points[:, 1]) / 1.5 + 0.5))

    def target(self, base: FloatArray, inside: BoolArray) -> FloatArray:
        return _filled(self.value, base)

    def scaled(self, factor: float) -> Self:
        """A larger shape; a level stays where it is."""
        return replace(self, shape=self.shape and self.shape.scaled(factor))


@dataclass(frozen=True, slots=True)
class Septum:
    """The wall between the frontal horns, gone: fluid in its place."""

    fluid: float
    growth: float  # mm

    def alpha(self, slice_: SliceField) -> FloatArray:
        x, y, z = slice_.points.T
        wall = slice_.shape[:, 0] - max(self.growth, 0)
        _, _, csf = tissues_of(slice_)
        within = smoothstep((3.2 - wall) / 0.8) * (np.abs(x) < 6) * (z > 4) * (z < 27) * (csf < 0.9)
        return np.asarray(within * smoothstep((y + 6) / 4) * smoothstep((30 - y) / 4))

    def target(self, base: FloatArray, inside: BoolArray) -> FloatArray:
        return np.full(len(base), self.fluid, dtype=np.float32)

    def scaled(self, factor: float) -> Self:
        return self
