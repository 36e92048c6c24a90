"""Skull, scalp and frontal sinus round the brain, simple but in the right order and proportion.

Points are MNI mm; N points. Layers from inside: fluid, inner table, marrow, outer table, muscle
and fat, skin.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from scanomaly.data.phantom.anatomy import LOW, load_template
from scanomaly.data.phantom.appearance import Appearance
from scanomaly.data.phantom.fields import BoolArray, FloatArray, Grid, smooth_noise, smoothstep

MARGIN = 16  # nodes of 2 mm added round the template's grid
ROUNDING = 26.0  # mm: hollows of the brain's outline up to about this wide do not reach the skin
SKIN_MM = 2.0
EDGE_MM = 1.2  # over which one layer gives way to the next
FRONT_Y = 40.0  # mm: the frontal bone lies before it
AIR = 0.02


@dataclass(frozen=True, slots=True)
class Materials:
    """Intensity, 0..1, of what is outside the brain in one MR contrast.

    scar: bone gaps and swollen scalp; dura: when thickened; mucosa: what fills an opacified sinus.
    """

    bone: float
    marrow: float
    fat: float
    muscle: float
    skin: float
    scar: float
    dura: float
    mucosa: float


MATERIALS: Mapping[str, Materials] = MappingProxyType(
    {
        "T1": Materials(0.05, 0.42, 0.78, 0.34, 0.42, 0.36, 0.80, 0.40),
        "T2": Materials(0.05, 0.30, 0.58, 0.16, 0.30, 0.62, 0.24, 0.85),
        "FLAIR": Materials(0.05, 0.32, 0.60, 0.24, 0.34, 0.66, 0.88, 0.72),
    }
)


@dataclass(frozen=True, slots=True)
class Skull:
    """One patient's skull and scalp, drawn once. Lengths in mm."""

    materials: Materials
    gap: float  # between brain and bone
    bone: float
    marrow: float  # share of the bone's thickness
    scalp: float
    muscle: float  # temporal muscle, at its thickest
    sinus: FloatArray  # (2,) size of the right and of the left frontal sinus, 1 = common
    offset: FloatArray  # (3,) part of the noise volume used


def draw_skull(rng: np.random.Generator, appearance: Appearance) -> Skull:
    """A skull for a patient; its materials vary by a sixth from patient to patient."""
    means = MATERIALS[appearance.contrast]
    values = [getattr(means, part.name) * rng.uniform(0.85, 1.15) for part in fields(means)]
    return Skull(
        materials=Materials(*values),
        gap=rng.uniform(0.8, 2.2),
        bone=rng.uniform(5.0, 7.5),
        marrow=rng.uniform(0.35, 0.5),
        scalp=rng.uniform(4.5, 7.5),
        muscle=rng.uniform(4.0, 7.0),
        sinus=rng.uniform(0.75, 1.25, 2).astype(np.float32),
        offset=rng.random(3).astype(np.float32),
    )


@cache
def outlines() -> Grid:
    """Signed mm outside the brain's hull and outside the head's rounded form: 2 channels at 2 mm.

    Positive outside. About two seconds, once per process.
    """
    hull = load_template().shape.values[..., 4] > 0
    wide = np.pad(hull, [(MARGIN, MARGIN)] * 2 + [(0, MARGIN)])
    wide = np.pad(wide, [(0, 0)] * 2 + [(MARGIN, 0)], mode="edge")
    outer = 2 * ndimage.distance_transform_edt(~wide)
    rounded = 2 * ndimage.distance_transform_edt(outer < ROUNDING) > ROUNDING
    channels = [ndimage.gaussian_filter(_signed(form), 2.0) for form in (wide, rounded)]
    values = np.stack(channels, axis=-1)[:, :, MARGIN:].astype(np.float32)
    origin = LOW - np.array([2 * MARGIN, 2 * MARGIN, 0], dtype=np.float32)
    return Grid(values, origin, 2.0)


def _signed(form: BoolArray) -> FloatArray:
    """Distance in mm to the border of a form at 2 mm, negative inside."""
    outside, inside = (2 * ndimage.distance_transform_edt(part) for part in (~form, form))
    return np.asarray(outside - inside, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Layers:
    """What lies where at points between brain and air; (N,) each, lengths in mm."""

    points: FloatArray  # (N, 3)
    bone_depth: FloatArray  # outward from the inner table, negative within it
    bone: FloatArray  # thickness of the bone there
    skin_depth: FloatArray  # inward from the skin, negative in air
    air: FloatArray  # share that is frontal sinus
    marrow: FloatArray  # how much marrow the bone still has, 0..1
    scar: FloatArray  # share that is scar instead of bone or scalp
    mucosa: FloatArray  # share that is filled sinus
    cover: FloatArray  # share of the brain's surface that is laid over
    cover_value: FloatArray  # its intensity


def layers_at(skull: Skull, points: FloatArray) -> Layers:
    """The layers of a patient's healthy head at points (N, 3)."""
    noise = smooth_noise(points, 22.0, skull.offset)
    inner, outer = outlines().sample(points).T
    forehead = _forehead(points)
    bone = np.maximum(skull.bone * (1 + 0.12 * noise[:, 0]) + 8 * forehead, 3.0)
    scalp = np.maximum(skull.scalp * (1 + 0.15 * noise[:, 1]), 3.5)
    scalp = scalp + skull.muscle * _temple(points)
    skin = skull.gap + bone - 2.5 * forehead + scalp
    depth = inner - np.float32(skull.gap)
    none = np.zeros(len(points), dtype=np.float32)
    return Layers(
        points=points,
        bone_depth=depth,
        bone=bone,
        skin_depth=np.asarray(skin - outer, dtype=np.float32),
        air=_sinus(skull, points, depth, bone),
        marrow=none + 1,
        scar=none,
        mucosa=none,
        cover=none,
        cover_value=none,
    )


def _forehead(points: FloatArray) -> FloatArray:
    """1 in the middle of the lower frontal bone, where the sinuses are, 0 elsewhere (N,)."""
    x, y, z = points.T
    middle = np.exp(-((x / 24) ** 2) - ((z + 6) / 14) ** 2)
    return np.asarray(middle * smoothstep((y - FRONT_Y) / 20), dtype=np.float32)


def _temple(points: FloatArray) -> FloatArray:
    """1 where the temporal muscle is thickest, 0 without it (N,)."""
    x, y, z = points.T
    side = smoothstep((np.abs(x) - 42) / 15)
    fall = np.exp(-(((y - 8) / 30) ** 2)) * (1 - smoothstep((z - 5) / 35))
    return np.asarray(side * fall, dtype=np.float32)


def _sinus(skull: Skull, points: FloatArray, depth: FloatArray, bone: FloatArray) -> FloatArray:
    """Share of each point that is frontal sinus, 0..1 (N,)."""
    x, y, z = points.T
    room = smoothstep((depth - 1.5) / EDGE_MM) * smoothstep((bone - 2.5 - depth) / EDGE_MM)
    inside = np.zeros(len(x), dtype=np.float32)
    for side, size in zip((1, -1), skull.sinus, strict=True):
        across = (side * x - 11) / (10 * size)
        up = (z + 8) / (17 * size)
        lobes = 0.12 * np.sin(side * x * 0.7 + 6 * skull.offset[0])
        inside += smoothstep((1.0 + lobes - across**2 - up**2) / 0.3)
    return np.asarray(np.clip(inside, 0, 1) * room * (y > FRONT_Y), dtype=np.float32)


def outer_tissue(skull: Skull, layers: Layers, fluid: float) -> FloatArray:
    """Noise-free intensity (N,) of everything outside the brain; fluid: intensity of CSF."""
    stuff, depth, bone = skull.materials, layers.bone_depth, layers.bone
    noise = smooth_noise(layers.points, 4.0, skull.offset + np.float32(0.21))
    muscle = smoothstep((bone + skull.muscle * _temple(layers.points) - depth) / EDGE_MM + 0.5)
    under_skin = smoothstep((layers.skin_depth - SKIN_MM) / EDGE_MM + 0.5)
    table = (1 - skull.marrow) / 2 * bone
    marrow = smoothstep((depth - table) / EDGE_MM) * smoothstep((bone - table - depth) / EDGE_MM)
    value = np.full(len(depth), stuff.skin, dtype=np.float32)
    for laid, share in (
        (stuff.fat * (1 + 0.10 * noise[:, 0]), under_skin),
        (stuff.muscle * (1 + 0.15 * noise[:, 1]), under_skin * muscle),
        (stuff.bone, smoothstep((bone - depth) / EDGE_MM + 0.5)),
        (stuff.marrow * (1 + 0.15 * noise[:, 2]), marrow * layers.marrow),
        (stuff.scar * (1 + 0.15 * noise[:, 1]), layers.scar),
        (AIR, layers.air),
        (stuff.mucosa * (1 + 0.12 * noise[:, 2]), layers.mucosa),
        (fluid, smoothstep(0.5 - depth / EDGE_MM)),
        (layers.cover_value, layers.cover),
    ):
        value += share * (laid - value)
    return np.asarray(value * smoothstep(layers.skin_depth / EDGE_MM + 0.5), dtype=np.float32)
