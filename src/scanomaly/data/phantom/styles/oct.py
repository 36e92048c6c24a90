"""Retinal OCT: B-scans of the layered retina; fluid in it, under it or under its pigment layer.

A column of the image is one A-scan; layers are stacked from the vitreous down to the sclera.
S image side, K layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from scipy import ndimage

from scanomaly.data.phantom.fields import BoolArray, FloatArray, smoothstep
from scanomaly.data.phantom.patient import SIDE
from scanomaly.data.phantom.simulate import DATA_SET
from scanomaly.data.phantom.styles.canvas import (
    COLUMNS,
    ROWS,
    ellipse,
    inside,
    paint,
    pick,
    smooth_field,
    texture,
    to_image,
)
from scanomaly.data.phantom.styles.style import SLICES, Identity, Style, StyledSlice, identify

X = np.arange(SIDE, dtype=np.float32)
FLUID_LEVEL = 0.07  # intensity
SLICE_GAP = 7.0  # pixels between neighbouring B-scans


@dataclass(frozen=True, slots=True)
class Layer:
    """Thickness in pixels away from the fovea, factor in its centre, intensity."""

    thickness: float
    foveal: float
    intensity: float


LAYERS: Mapping[str, Layer] = MappingProxyType(
    {
        "nerve fibres": Layer(4.5, 0.1, 0.74),
        "ganglion cells": Layer(8.5, 0.15, 0.52),
        "inner nuclear": Layer(5.0, 0.25, 0.33),
        "outer plexiform": Layer(3.0, 0.6, 0.52),
        "outer nuclear": Layer(9.0, 1.35, 0.24),
        "limiting membrane": Layer(1.2, 1.0, 0.42),
        "inner segments": Layer(3.0, 1.1, 0.27),
        "ellipsoid zone": Layer(2.6, 1.1, 0.86),
        "outer segments": Layer(2.6, 1.2, 0.46),
        "subretinal fluid": Layer(0.0, 1.0, FLUID_LEVEL),
        "pigment epithelium": Layer(4.2, 1.0, 0.92),
        "detachment": Layer(0.0, 1.0, 0.16),
        "choroid": Layer(24.0, 1.0, 0.50),
        "sclera": Layer(200.0, 1.0, 0.30),
    }
)
NAMES = tuple(LAYERS)
KINDS = ("intraretinal fluid", "subretinal fluid", "pigment epithelial detachment")
PLACES = ("through the fovea", "beside the fovea", "away from the fovea")


@dataclass(frozen=True, slots=True)
class Eye:
    """One eye and scanner. Distances in pixels."""

    identity: Identity
    side: str  # right or left
    fovea: float  # column
    nearest: float  # distance of the first slice from the fovea
    pit: tuple[float, float]  # depth 0..1, width
    base: float  # row of the pigment epithelium
    tilt: float
    curvature: float
    sizes: FloatArray  # (K,) thickness relative to LAYERS
    tones: FloatArray  # (K,) intensity relative to LAYERS
    vessels: FloatArray  # (V, 3): column, half width, strength of the shadow
    offset: FloatArray  # (3,) part of the noise volume
    speckle: float
    gain: float
    floor: float  # intensity of the vitreous
    fade: float  # loss of signal over the image's height

    def distance(self, index: int) -> float:
        """Of a slice from the fovea."""
        return self.nearest + SLICE_GAP * index


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the layers of one slice lie. tops: (K, S) row of each layer's upper edge."""

    tops: FloatArray

    def region(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Upper and lower edge (S,) of a layer."""
        number = NAMES.index(name)
        return self.tops[number], self.tops[number + 1]

    def between(self, first: str, last: str) -> BoolArray:
        """Pixels (S, S) from the top of one layer to the bottom of another."""
        return (self.region(first)[0] <= ROWS) & (self.region(last)[1] > ROWS)


@dataclass(frozen=True, slots=True)
class Finding:
    """An anomaly of one slice: extra thickness (S,) by layer, and cysts drawn over the layers."""

    kind: str
    extra: Mapping[str, FloatArray]


def make_eye(seed: int, index: int, *, slices: int = SLICES, family: int = DATA_SET) -> Eye:
    """Draws one eye."""
    identity = identify("oct", seed, index, slices, family)
    rng = identity.anatomy()
    count = int(rng.integers(2, 7))
    vessels = [rng.uniform(0, SIDE, count), rng.uniform(0.8, 2.4, count)]
    return Eye(
        identity=identity,
        side=str(rng.choice(("right", "left"))),
        fovea=rng.uniform(55, 105),
        nearest=float(rng.choice((rng.uniform(-55, -20), rng.uniform(-20, 10), 40.0))),
        pit=(rng.uniform(0.75, 1.0), rng.uniform(13, 21)),
        base=rng.uniform(84, 118),
        tilt=rng.uniform(-0.16, 0.16),
        curvature=rng.uniform(-6, 16),
        sizes=np.exp(rng.normal(0, 0.1, len(NAMES)) + rng.normal(0, 0.08)).astype(np.float32),
        tones=np.exp(rng.normal(0, 0.1, len(NAMES))).astype(np.float32),
        vessels=np.stack([*vessels, rng.uniform(0.25, 0.6, count)], -1).astype(np.float32),
        offset=rng.random(3).astype(np.float32),
        speckle=rng.uniform(0.22, 0.42),
        gain=rng.uniform(0.75, 1.1),
        floor=rng.uniform(0.05, 0.13),
        fade=rng.uniform(0.0, 0.35),
    )


def _thicknesses(eye: Eye, index: int) -> FloatArray:
    """Thickness (K, S) of each healthy layer."""
    depth, width = eye.pit
    squared = (X - eye.fovea) ** 2 + eye.distance(index) ** 2
    pit = depth * np.exp(-squared / (2 * width**2))
    rim = 0.14 * np.exp(-squared / (2 * (2.6 * width) ** 2))
    nasal = (X - eye.fovea) * (1 if eye.side == "right" else -1) / SIDE
    wave = smooth_field(eye.offset, 24.0, eye.distance(index))[64]  # (S, 3)
    rows = []
    for number, layer in enumerate(LAYERS.values()):
        factor = 1 + (layer.foveal - 1) * pit + rim * (layer.foveal < 1)
        if number == 0:
            factor = factor * (1 + 0.9 * nasal)
        noise = 1 + 0.07 * np.roll(wave[:, number % 3], 17 * number)
        rows.append(layer.thickness * eye.sizes[number] * np.maximum(factor * noise, 0.03))
    return np.asarray(rows, dtype=np.float32)


def _shape(eye: Eye, index: int, extra: Mapping[str, FloatArray]) -> Shape:
    """Layers stacked upwards and downwards from the choroid, which never moves."""
    thickness = _thicknesses(eye, index)
    for name, more in extra.items():
        thickness[NAMES.index(name)] += more
    centred = (X - SIDE / 2) / (SIDE / 2)
    wave = smooth_field((eye.offset + np.float32(0.4)) % 1, 40.0, eye.distance(index))[32, :, 0]
    shake = eye.identity.noise(index).uniform(-4, 4)
    choroid = eye.base + shake + eye.tilt * (X - SIDE / 2) - eye.curvature * centred**2 + 1.2 * wave
    first = NAMES.index("choroid")
    above = choroid - np.cumsum(thickness[:first][::-1], axis=0)[::-1]
    below = choroid + np.cumsum(thickness[first:], axis=0)
    tops = np.concatenate([above, choroid[None], below])
    return Shape(np.asarray(tops, dtype=np.float32))


def _layers(eye: Eye, index: int, shape: Shape) -> FloatArray:
    """Intensity (S, S) without speckle: a soft step at every upper edge."""
    tones = [layer.intensity for layer in LAYERS.values()] * eye.tones
    tones[NAMES.index("subretinal fluid")] = FLUID_LEVEL
    image = np.full((SIDE, SIDE), eye.floor, dtype=np.float32)
    before = eye.floor
    for top, tone in zip(shape.tops, tones, strict=False):
        image += (tone - before) * smoothstep((ROWS - top) / 1.4 + 0.5)
        before = float(tone)
    top, bottom = shape.region("choroid")
    below = np.clip((ROWS - top) / np.maximum(bottom - top, 1), 0, None)
    holes = smooth_field((eye.offset + np.float32(0.7)) % 1, 5.0, eye.distance(index))
    dark = smoothstep((np.abs(holes[..., 0]) - 0.5) * 1.5) * smoothstep(below * 6)
    image *= 1 - 0.4 * dark * (below > 0)
    image *= np.exp(-0.9 * np.clip(below - 0.4, 0, 4)).astype(np.float32)
    return image


def _vessel_shadows(eye: Eye, index: int, shape: Shape) -> FloatArray:
    """Factor (S, S): retinal vessels are bright and darken what lies below."""
    factor = np.ones((SIDE, SIDE), dtype=np.float32)
    top = shape.tops[0]
    for column, half, strength in eye.vessels:
        place = (column + 0.6 * eye.distance(index) * (strength - 0.4)) % SIDE
        across = np.exp(-(((X - place) / half) ** 2) / 2)
        if abs(place - eye.fovea) < 22:
            continue  # no vessels in the fovea
        below = smoothstep((ROWS - top - 5) / 4)
        factor *= 1 - strength * across * below
        row = float(top[int(place)]) + 3.5
        spot = ellipse(ROWS, COLUMNS, (row, float(place)), (2.4, 1.0 + float(half)))
        factor += 0.35 * inside(spot)
    return factor


def _dome(rng: np.random.Generator, centre: float, width: float, height: float) -> FloatArray:
    """A smooth hill (S,) with a wavy slope."""
    arm = (X - np.float32(centre)) / np.float32(width)
    arm = arm * (1 + np.float32(rng.uniform(-0.25, 0.25)) * np.sign(arm))
    hill = np.clip(1 - arm**2, 0, None) ** rng.uniform(0.7, 1.3)
    wave = 1 + 0.12 * np.sin(X * np.float32(rng.uniform(0.1, 0.25)) + rng.uniform(0, 6))
    return np.asarray(height * hill * wave, dtype=np.float32)


def _draw(eye: Eye, index: int) -> Finding:
    """The anomaly of one slice: of the eye's kind, its size drawn anew."""
    kind = str(eye.identity.lesion().choice(KINDS, p=(0.4, 0.35, 0.25)))
    rng = eye.identity.lesion(index)
    centre = rng.uniform(30, SIDE - 30)
    if kind == "intraretinal fluid":
        swelling = _dome(rng, centre, rng.uniform(18, 48), rng.uniform(4, 16))
        share = rng.uniform(0.3, 0.7)
        extra = {"inner nuclear": swelling * share, "outer nuclear": swelling * (1 - share)}
        return Finding(kind, extra)
    if kind == "subretinal fluid":
        dome = _dome(rng, centre, rng.uniform(14, 48), rng.uniform(5, 18))
        return Finding(kind, {"subretinal fluid": dome})
    hills = _dome(rng, centre, rng.uniform(9, 28), rng.uniform(5, 16))
    for _ in range(rng.integers(0, 3)):
        place = rng.uniform(15, SIDE - 15)
        hills = np.maximum(hills, _dome(rng, place, rng.uniform(5, 10), rng.uniform(3, 7)))
    return Finding(kind, {"detachment": hills})


def _cysts(eye: Eye, index: int, shape: Shape, finding: Finding, image: FloatArray) -> FloatArray:
    """Paints holes of fluid into the swollen nuclear layers; their alpha (S, S)."""
    rng = eye.identity.lesion(index, 1)
    swollen = np.broadcast_to(sum(finding.extra.values()) > 1.0, (SIDE, SIDE))
    extent = np.zeros((SIDE, SIDE), dtype=np.float32)
    for name in ("outer nuclear", "inner nuclear"):
        top, bottom = shape.region(name)
        allowed = swollen & (top + 1 < ROWS) & (bottom - 1 > ROWS)
        for _ in range(rng.integers(2, 8)):
            centre = pick(rng, allowed & (extent < 0.05))
            if centre is None:
                break
            column = int(centre[1])
            room = float(bottom[column] - top[column]) / 2
            middle = float(top[column]) + room * rng.uniform(0.85, 1.15)
            tall = max(1.6, room * rng.uniform(0.5, 0.95))
            wide = tall * rng.uniform(0.6, 1.3)
            hole = inside(ellipse(ROWS, COLUMNS, (middle, centre[1]), (tall, wide)))
            extent = np.maximum(extent, hole)
    paint(image, extent, FLUID_LEVEL)
    return extent


def _extent(eye: Eye, index: int, shape: Shape, finding: Finding, image: FloatArray) -> FloatArray:
    """Alpha (S, S) of the fluid."""
    if finding.kind == "intraretinal fluid":
        return _cysts(eye, index, shape, finding, image)
    (name,) = finding.extra
    return shape.between(name, name).astype(np.float32)


def _scan(eye: Eye, index: int, finding: Finding | None) -> StyledSlice:
    """Speckle, shadows, loss of signal with depth."""
    rng = eye.identity.noise(index)
    shape = _shape(eye, index, finding.extra if finding else {})
    image = _layers(eye, index, shape)
    nothing = np.zeros((SIDE, SIDE), dtype=np.float32)
    extent = _extent(eye, index, shape, finding, image) if finding else nothing
    image *= _vessel_shadows(eye, index, shape)
    image *= eye.gain * (1 - eye.fade * (ROWS / SIDE))
    image *= 1 + 0.1 * smooth_field((eye.offset + np.float32(0.2)) % 1, 22.0)[0, :, 1]
    speckle = np.exp(eye.speckle * (0.7 * texture(rng, 0.6, 1.6) + 0.5 * texture(rng, 0.4, 1.0)))
    floor = 0.35 * eye.floor * np.abs(texture(rng, 0.5, 1.4))
    image = np.asarray(cv2.GaussianBlur(image, (3, 3), 0.5) * speckle + floor, np.float32)
    return StyledSlice(
        patient=eye.identity.name,
        index=index,
        image=to_image(image),
        mask=_mask(extent),
        facts=_facts(eye, index),
        cells={"side": eye.side, "level": _facts(eye, index)["level"]},
        finding={"kind": finding.kind} if finding else {},
    )


def _mask(extent: FloatArray) -> BoolArray:
    """Without specks that no reader would draw."""
    labels, count = ndimage.label(extent > 0.5)
    if not count:
        return np.asarray(labels > 0)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= 4)[labels])


def _facts(eye: Eye, index: int) -> dict[str, str]:
    away = abs(eye.distance(index))
    return {
        "modality": "retinal OCT",
        "contrast": "bright" if eye.gain > 0.92 else "dim",
        "plane": "horizontal B-scan",
        "level": PLACES[int(away > 14) + int(away > 38)],
        "anatomy": f"{eye.side} eye",
    }


def healthy_slice(eye: Eye, index: int) -> StyledSlice:
    """One B-scan without fluid."""
    eye.identity.position(index)
    return _scan(eye, index, None)


def diseased_slice(eye: Eye, index: int) -> StyledSlice | None:
    """The same B-scan with fluid; None where hardly any would be seen."""
    eye.identity.position(index)
    found = _scan(eye, index, _draw(eye, index))
    return found if found.mask.sum() >= 20 else None


OCT = Style(
    name="Retinal_OCT",
    title="Retinal OCT with fluid (simulated)",
    has_masks=True,
    columns=("side", "level", "kind"),
    subject=make_eye,
    healthy=healthy_slice,
    diseased=diseased_slice,
)
