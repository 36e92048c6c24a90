"""Abdominal CT: axial slices through the liver, with tumours in it.

Painted in Hounsfield units (HU), one organ over the other, then windowed. Positions are shares of
the body's half axes, from its centre: row down, column to the patient's left (radiological).
S image side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from scanomaly.data.phantom.fields import FloatArray
from scanomaly.data.phantom.patient import SIDE
from scanomaly.data.phantom.simulate import DATA_SET
from scanomaly.data.phantom.styles.canvas import (
    COLUMNS,
    ROWS,
    blob,
    ellipse,
    far_inside,
    inside,
    paint,
    pick,
    smooth_field,
    texture,
    to_image,
)
from scanomaly.data.phantom.styles.style import SLICES, Identity, Style, StyledSlice, identify

AIR, LUNG, FAT, WATER, MUSCLE, BONE = -1000.0, -820.0, -100.0, 10.0, 55.0, 420.0
DEPTH = 90.0  # pixels between the dome of the liver (level 0) and the kidneys (level 1)
LEVELS = ("dome of the liver", "upper liver", "porta hepatis", "kidneys")


@dataclass(frozen=True, slots=True)
class Phase:
    """Attenuation in HU after (or without) contrast agent."""

    words: str
    liver: float
    spleen: float
    kidney: float
    aorta: float
    vein: float  # portal and hepatic veins


PHASES: Mapping[str, Phase] = MappingProxyType(
    {
        "native": Phase("without contrast agent", 58, 48, 34, 42, 40),
        "arterial": Phase("arterial phase", 70, 115, 160, 260, 85),
        "portal": Phase("portal venous phase", 108, 118, 175, 145, 155),
    }
)
KINDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"hypodense": (-60, -32), "ring": (-75, -45), "hyperdense": (32, 65)}
)
"""Kind of tumour -> change in HU, (low, high) of a uniform draw."""


@dataclass(frozen=True, slots=True)
class Abdomen:
    """One patient and scanner."""

    identity: Identity
    phase: Phase
    half: tuple[float, float]  # of the body, pixels: rows, columns
    centre: tuple[float, float]
    fat: float  # thickness under the skin, pixels
    levels: tuple[float, float]  # of the first and the last slice
    draws: FloatArray  # (16,) in 0..1: sizes and places of organs
    offset: FloatArray  # (3,) part of the noise volume
    window: tuple[float, float]  # HU: centre, width
    noise: float  # HU
    blur: float  # pixels

    def between(self, number: int, low: float, high: float) -> float:
        """A draw of this patient, scaled."""
        return float(low + (high - low) * self.draws[number])

    def level(self, index: int) -> float:
        """Height of a slice: 0 dome of the liver, 1 kidneys."""
        first, last = self.levels
        return first + (last - first) * self.identity.position(index)


@dataclass(frozen=True, slots=True)
class Cut:
    """A slice while it is painted. rows, columns: (S, S) bent by the patient's own anatomy."""

    abdomen: Abdomen
    level: float
    rows: FloatArray
    columns: FloatArray
    image: FloatArray  # HU

    def organ(
        self, place: tuple[float, float], size: tuple[float, float], angle: float = 0.0
    ) -> FloatArray:
        """Signed distance (S, S) from an ellipse; place and size in half axes of the body."""
        (top, left), (tall, wide) = self.abdomen.centre, self.abdomen.half
        centre = (top + place[0] * tall, left + place[1] * wide)
        axes = (max(size[0] * tall, 1.5), max(size[1] * wide, 1.5))
        return ellipse(self.rows, self.columns, centre, axes, angle)

    def paint(self, distance: FloatArray, value: FloatArray | float, edge: float = 1.5) -> None:
        """Fills the inside of a signed distance."""
        paint(self.image, inside(distance, edge), value)


def make_abdomen(seed: int, index: int, *, slices: int = SLICES, family: int = DATA_SET) -> Abdomen:
    """Draws one patient."""
    identity = identify("ct", seed, index, slices, family)
    rng = identity.anatomy()
    first = rng.uniform(0.0, 0.45)
    return Abdomen(
        identity=identity,
        phase=PHASES[str(rng.choice(list(PHASES), p=(0.25, 0.2, 0.55)))],
        half=(rng.uniform(46, 62), rng.uniform(64, 76)),
        centre=(80 + rng.uniform(-5, 5), 80 + rng.uniform(-4, 4)),
        fat=rng.uniform(3, 13),
        levels=(first, rng.uniform(max(first + 0.25, 0.6), 1.0)),
        draws=rng.random(16).astype(np.float32),
        offset=rng.random(3).astype(np.float32),
        window=(rng.uniform(25, 65), rng.uniform(350, 460)),
        noise=rng.uniform(6, 18),
        blur=rng.uniform(0.5, 0.9),
    )


def _body(cut: Cut) -> FloatArray:
    """Skin, fat, wall, ribs and what fills the cavity. Returns the cavity's signed distance."""
    one = cut.abdomen
    skin = cut.organ((0, 0), (1, 1))
    wall = skin + np.float32(one.fat)
    cavity = wall + np.float32(one.between(0, 4, 8))
    cut.paint(skin, MUSCLE)
    cut.paint(skin + 1.5, FAT)
    cut.paint(wall, MUSCLE)
    cut.paint(cavity, FAT)
    _ribs(cut)
    if cut.level < 0.3:
        rise = 0.55 + 1.4 * cut.level  # the diaphragm's dome, larger further down
        dome = cut.organ((0.0, 0.0), (rise, rise))
        lungs = np.minimum(inside(cavity), 1 - inside(dome, 3.0))
        paint(cut.image, lungs, LUNG)
    return cavity


def _ribs(cut: Cut) -> None:
    """Oblique cuts of ribs along the wall, wandering with the level."""
    one = cut.abdomen
    tall, wide = one.half[0] - one.fat - 2, one.half[1] - one.fat - 2
    for side in (-1, 1):
        for number in range(5):
            turn = 0.5 + 0.52 * number + 0.5 * ((cut.level * 3 + one.between(1, 0, 1)) % 1)
            row = one.centre[0] - tall * np.cos(turn)
            column = one.centre[1] + side * wide * np.sin(turn)
            along = np.arctan2(wide * np.cos(turn), tall * np.sin(turn))
            shape = ellipse(cut.rows, cut.columns, (row, column), (1.8, 5.0), -side * along)
            cut.paint(shape, BONE)
            cut.paint(shape + 1.4, 180.0)


def _spine(cut: Cut) -> None:
    """Vertebra with canal and processes, and the muscles beside it."""
    one = cut.abdomen
    for side in (-1, 1):
        cut.paint(cut.organ((0.74, 0.30 * side), (0.17, 0.21)), MUSCLE + 3)
        if cut.level > 0.6:
            cut.paint(cut.organ((0.48, 0.25 * side), (0.14, 0.1)), MUSCLE)  # psoas
    cut.paint(cut.organ((0.76, 0.0), (0.2, 0.05)), BONE)
    cut.paint(cut.organ((0.62, 0.0), (0.07, 0.27 * one.between(2, 0.7, 1.1))), BONE - 120)
    body = cut.organ((0.45, 0.0), (0.21 * one.between(3, 0.9, 1.1), 0.19))
    cut.paint(body, BONE)
    cut.paint(body + 2, 210 + 60 * (one.between(4, -1, 1) + smooth_field(one.offset, 4.0)[..., 0]))
    cut.paint(cut.organ((0.65, 0.0), (0.09, 0.09)), 30.0)


def _left_side(cut: Cut) -> None:
    """Stomach with fluid and air, spleen, kidneys, bowel."""
    one, level, phase = cut.abdomen, cut.level, cut.abdomen.phase
    if level < 0.75:
        size = one.between(5, 0.2, 0.36)
        stomach = cut.organ((-0.28, 0.4), (size, size * 1.1), 0.4)
        cut.paint(stomach, MUSCLE + 20)
        cut.paint(stomach + 2, 15 + 60 * one.between(6, 0, 1) ** 3)
        surface = np.float32(one.centre[0] - (0.3 + 0.3 * one.between(7, -0.6, 0.8)) * one.half[0])
        cut.paint(np.maximum(stomach + 2, cut.rows - surface), AIR)
    if 0.05 < level < 0.85:
        bulge = 1 - abs(level - 0.4)
        spleen = cut.organ((0.2, 0.66), (0.38 * bulge, 0.17), -0.35)
        cut.paint(spleen, phase.spleen * one.between(8, 0.92, 1.08))
    if level > 0.5:
        grown = min(1.0, (level - 0.4) * 3)
        for side in (-1, 1):
            kidney = cut.organ((0.36, 0.45 * side), (0.2 * grown, 0.15 * grown), 0.3 * side)
            cut.paint(kidney, phase.kidney)
            cut.paint(cut.organ((0.35, 0.38 * side), (0.1 * grown, 0.06 * grown)), FAT + 40)
        _bowel(cut)


def _bowel(cut: Cut) -> None:
    rng = cut.abdomen.identity.anatomy(1)
    for _ in range(9):
        place = (rng.uniform(-0.55, 0.05), rng.uniform(-0.25, 0.62))
        size = rng.uniform(0.08, 0.15)
        content = float(rng.choice((25.0, 45.0, -700.0, 160.0), p=(0.45, 0.25, 0.2, 0.1)))
        place = (place[0] + 0.1 * np.sin(9 * cut.level + 20 * place[1]), place[1])
        loop = cut.organ(place, (size, size * 0.9))
        cut.paint(loop, MUSCLE + 15)
        cut.paint(loop + 1.8, content)


def _vessels(cut: Cut) -> None:
    one, phase = cut.abdomen, cut.abdomen.phase
    cut.paint(cut.organ((0.22, 0.11), (0.11, 0.085)), phase.aorta)
    cut.paint(cut.organ((0.14, -0.14), (0.1, 0.1 * one.between(9, 0.9, 1.3))), phase.vein)


def _liver(cut: Cut, cavity: FloatArray) -> FloatArray:
    """Both lobes with veins, fissure and gallbladder. Returns the parenchyma's alpha (S, S)."""
    one, level, phase = cut.abdomen, cut.level, cut.abdomen.phase
    size = (
        (0.55 + 0.55 * min(1.0, 2.2 * level)) * min(1.0, 1.75 - level) * one.between(10, 0.9, 1.1)
    )
    right = cut.organ((-0.02, -0.45), (0.74 * size, 0.47 * size), -0.15)
    left = cut.organ((-0.36, -0.02), (0.32 * size, 0.44 * size * one.between(11, 0.75, 1.1)), 0.25)
    left = left + np.float32(30 * max(0.0, level - 0.55))
    alpha = np.minimum(inside(np.minimum(right, left)), inside(cavity + 0.5))
    tone = phase.liver * one.between(12, 0.88, 1.1) - 30 * (one.draws[13] > 0.88)  # some are fatty
    paint(cut.image, alpha, tone + 4 * smooth_field(one.offset, 12.0, DEPTH * level)[..., 1])
    tubes = smooth_field((one.offset + np.float32(0.61)) % 1, 13.0, DEPTH * level)
    reach = np.hypot(tubes[..., 0], tubes[..., 1])
    thick = np.float32(0.3) * (1 + 0.5 * tubes[..., 2])
    paint(cut.image, alpha * inside(reach - thick, 0.15), phase.vein)
    tissue = alpha * (1 - inside(reach - thick, 0.15))
    return _without_spaces(cut, alpha, tissue)


def _without_spaces(cut: Cut, alpha: FloatArray, tissue: FloatArray) -> FloatArray:
    """Paints fissure and gallbladder, where the patient shows them; the tissue (S, S) left."""
    one, level = cut.abdomen, cut.level
    if one.draws[14] > 0.4 and level > 0.25:
        line = cut.columns - np.float32(0.3) * cut.rows - np.float32(0.62 * one.centre[1])
        cleft = inside(np.abs(line) - np.float32(0.6))
        cleft = cleft * inside(cut.organ((-0.5, -0.05), (0.35, 0.3)))
        paint(cut.image, alpha * cleft, FAT + 60)
        tissue = tissue * (1 - cleft)
    if one.draws[15] > 0.35 and 0.4 < level < 0.85:
        bladder = cut.organ((-0.02, -0.2), (0.17 * one.between(9, 0.7, 1.1), 0.1), -0.5)
        cut.paint(bladder, WATER)
        tissue = tissue * (1 - inside(bladder, 4.0))
    return np.asarray(tissue, dtype=np.float32)


def _cut(one: Abdomen, index: int) -> tuple[Cut, FloatArray]:
    """Noise-free slice in HU and the alpha (S, S) of the liver's tissue."""
    level = one.level(index)
    bend = 3.0 * smooth_field((one.offset + np.float32(0.3)) % 1, 26.0, DEPTH * level)
    image = np.full((SIDE, SIDE), AIR, dtype=np.float32)
    cut = Cut(one, level, ROWS + bend[..., 0], COLUMNS + bend[..., 1], image)
    cavity = _body(cut)
    _left_side(cut)
    liver = _liver(cut, cavity)
    uncovered = cut.image.copy()
    _vessels(cut)
    _spine(cut)
    return cut, liver * (np.abs(cut.image - uncovered) < 1)


def _tumours(cut: Cut, liver: FloatArray, index: int) -> tuple[FloatArray, str] | None:
    """Paints the tumours of a slice; their alpha (S, S) and kind, None where nothing fits."""
    identity = cut.abdomen.identity
    patient, rng = identity.lesion(), identity.lesion(index)
    kind = str(patient.choice(list(KINDS), p=(0.5, 0.3, 0.2)))
    change = patient.uniform(*KINDS[kind])
    extent = np.zeros((SIDE, SIDE), dtype=np.float32)
    for radius in (rng.uniform(5, 15), *rng.uniform(3, 8, rng.integers(0, 4))):
        centre = pick(rng, far_inside(liver, 0.6 * radius))
        if centre is None:
            continue
        alpha = blob(rng, centre, radius, 0.12, edge=3.0) * liver
        ring = kind == "ring" and radius > 6
        paint(cut.image, alpha, cut.image + (0.6 * abs(change) if ring else change))
        if ring:
            core = blob(rng, centre, radius * rng.uniform(0.6, 0.8), 0.1, edge=3.0) * alpha
            paint(cut.image, core, cut.image + change - 0.6 * abs(change))
        extent = np.maximum(extent, alpha)
    return (extent, kind) if (extent > 0.5).sum() >= 20 else None


def _scan(one: Abdomen, cut: Cut, index: int, extent: FloatArray, kind: str) -> StyledSlice:
    """Noise, blur and window."""
    rng = one.identity.noise(index)
    noise = one.noise * texture(rng, 0.7) + 0.5 * one.noise * texture(rng, 2.0)
    image = cv2.GaussianBlur(cut.image, (5, 5), one.blur) + noise
    centre, width = one.window
    facts = {
        "modality": "abdominal CT",
        "contrast": one.phase.words,
        "plane": "axial",
        "level": LEVELS[min(int(cut.level * 4), 3)],
        "anatomy": "abdomen",
    }
    return StyledSlice(
        patient=one.identity.name,
        index=index,
        image=to_image(np.asarray((image - centre) / width + 0.5, dtype=np.float32)),
        mask=extent > 0.5,
        facts=facts,
        cells={"contrast": facts["contrast"], "level": facts["level"]},
        finding={"kind": kind} if kind else {},
    )


def healthy_slice(one: Abdomen, index: int) -> StyledSlice:
    """One slice without tumours."""
    cut, _ = _cut(one, index)
    return _scan(one, cut, index, np.zeros((SIDE, SIDE), dtype=np.float32), "")


def diseased_slice(one: Abdomen, index: int) -> StyledSlice | None:
    """The same slice with tumours; None where the liver has no room."""
    cut, liver = _cut(one, index)
    found = _tumours(cut, liver, index)
    return _scan(one, cut, index, *found) if found else None


CT = Style(
    name="Abdominal_CT",
    title="Abdominal CT with liver tumours (simulated)",
    has_masks=True,
    columns=("contrast", "level", "kind"),
    subject=make_abdomen,
    healthy=healthy_slice,
    diseased=diseased_slice,
)
