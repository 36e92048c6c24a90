"""Frontal chest radiographs, with opacities in the lungs; labels only, as such sets have them.

Attenuation of one shadow is added to that of another, as on film. Slices are exposures of one
patient in other breaths. S image side.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from scanomaly.data.phantom.fields import FloatArray, smoothstep
from scanomaly.data.phantom.patient import SIDE
from scanomaly.data.phantom.simulate import DATA_SET
from scanomaly.data.phantom.styles.canvas import (
    COLUMNS,
    ROWS,
    blob,
    ellipse,
    far_inside,
    inside,
    pick,
    smooth_field,
    texture,
    to_image,
)
from scanomaly.data.phantom.styles.style import SLICES, Identity, Style, StyledSlice, identify

KINDS = ("consolidation", "nodules", "effusion")
VIEWS = ("posteroanterior", "anteroposterior")
BREATHS = ("deep inspiration", "middle inspiration", "shallow inspiration")
SIDES = (-1, 1)  # left and right of the image


@dataclass(frozen=True, slots=True)
class Thorax:
    """One patient and X-ray machine; lengths in pixels."""

    identity: Identity
    view: str
    centre: float  # column of the spine
    apex: float  # row of the lungs' tops
    half_width: float  # of the thorax
    floor: float  # row of the diaphragm in middle inspiration
    heart: tuple[float, float]  # half axes: rows, columns
    ribs: tuple[float, float, float]  # spacing, slope, strength
    vessels: float  # strength of the lung markings
    breast: float  # attenuation of soft tissue over the lower lungs
    draws: FloatArray  # (10,) in 0..1
    offset: FloatArray  # (3,) part of the noise volume
    gamma: float
    exposure: tuple[float, float]  # intensities of the darkest and of the brightest part
    noise: float

    def between(self, number: int, low: float, high: float) -> float:
        """A draw of this patient, scaled."""
        return float(low + (high - low) * self.draws[number])


@dataclass(frozen=True, slots=True)
class Pose:
    """One exposure. rows, columns: (S, S) of the patient's own coordinates."""

    rows: FloatArray
    columns: FloatArray
    breath: float  # 0 shallow, 1 deep
    lungs: tuple[FloatArray, FloatArray]  # signed distance of both
    floors: tuple[FloatArray, FloatArray]  # rows below both diaphragms, positive


def make_thorax(seed: int, index: int, *, slices: int = SLICES, family: int = DATA_SET) -> Thorax:
    """Draws one patient."""
    identity = identify("chest", seed, index, slices, family)
    rng = identity.anatomy()
    view = str(rng.choice(VIEWS, p=(0.65, 0.35)))
    wide = 1.15 if view == "anteroposterior" else 1.0  # the heart is magnified
    dark = rng.uniform(0.0, 0.12)
    return Thorax(
        identity=identity,
        view=view,
        centre=80 + rng.uniform(-6, 6),
        apex=rng.uniform(16, 30),
        half_width=rng.uniform(56, 68),
        floor=rng.uniform(112, 130),
        heart=(rng.uniform(28, 36), wide * rng.uniform(19, 25)),
        ribs=(rng.uniform(10.5, 13.5), rng.uniform(0.18, 0.42), rng.uniform(0.07, 0.15)),
        vessels=rng.uniform(0.05, 0.16),
        breast=rng.uniform(0, 0.13) * (rng.random() < 0.6),
        draws=rng.random(10).astype(np.float32),
        offset=rng.random(3).astype(np.float32),
        gamma=rng.uniform(0.8, 1.35),
        exposure=(dark, rng.uniform(0.82, 1.0)),
        noise=rng.uniform(0.008, 0.03),
    )


def _pose(one: Thorax, index: int) -> Pose:
    """A little turned, shifted and breathing differently in every exposure."""
    rng = one.identity.noise(index)
    turn, breath = rng.normal(0, 0.02), float(rng.random())
    shift = rng.uniform(-3, 3, 2)
    bend = 2.0 * smooth_field(one.offset, 30.0)
    rows = ROWS + bend[..., 0] + shift[0] + np.float32(turn) * (COLUMNS - 80)
    columns = COLUMNS + bend[..., 1] + shift[1] - np.float32(turn) * (ROWS - 80)
    lungs, floors = [], []
    for side in SIDES:
        middle = one.centre + side * 0.52 * one.half_width
        height = one.floor + 7 * (breath - 0.5) - one.apex
        hull = ellipse(
            rows,
            columns,
            (one.apex + 0.72 * height, middle),
            (0.74 * height, one.half_width * one.between(0, 0.43, 0.47)),
            0.10 * side,
        )
        arm = (columns - middle) / (0.5 * one.half_width)
        dome = one.floor + 7 * (breath - 0.5) + 11 * (arm + 0.25 * side) ** 2 - 4 * (side < 0)
        floors.append(np.asarray(rows - dome, dtype=np.float32))
        lungs.append(np.maximum(hull, floors[-1]))
    return Pose(rows, columns, breath, (lungs[0], lungs[1]), (floors[0], floors[1]))


def _trunk(one: Thorax, pose: Pose) -> FloatArray:
    """Soft tissue: body with shoulders, air beside it."""
    shoulder = 7 + 0.0042 * (pose.columns - one.centre) ** 2 * one.between(1, 0.7, 1.3)
    neck = np.abs(pose.columns - one.centre) < 15
    top = np.where(neck, -10, shoulder + one.between(8, 0, 6))
    flank = np.abs(pose.columns - one.centre) - (one.half_width + one.between(2, 7, 16))
    arms = flank - 40 * smoothstep((70 - pose.rows) / 45)
    body = smoothstep((pose.rows - top) / 10) * inside(arms, 5.0)
    return np.asarray(body * (0.62 + 0.1 * inside(flank + 14, 22.0)), dtype=np.float32)


def _bones(one: Thorax, pose: Pose) -> FloatArray:
    """Ribs from behind, clavicles, spine."""
    spacing, slope, strength = one.ribs
    arm = np.abs(pose.columns - one.centre)
    behind = pose.rows + slope * 22 * np.cos(arm / one.half_width * 2.6 - 0.9)
    front = pose.rows - 0.75 * arm + 12
    image = np.zeros((SIDE, SIDE), dtype=np.float32)
    for course, weight in ((behind, 1.0), (front * 0.8, 0.45)):
        phase = ((course - one.apex - 2) / spacing) % 1
        band = smoothstep((0.27 - np.abs(phase - 0.5)) * 9)
        hollow = 0.35 * smoothstep((0.14 - np.abs(phase - 0.5)) * 12)
        image += weight * strength * (band - hollow)
    cage = inside(arm - one.half_width * 0.98, 5.0) * smoothstep((pose.rows - one.apex + 2) / 6)
    image *= cage * smoothstep((arm - 7) / 5) * smoothstep((one.floor + 26 - pose.rows) / 20)
    tilt = one.between(3, -0.22, 0.3)
    bar = np.abs(pose.rows - one.apex - 7 + tilt * (arm - 25)) - 2.6
    image += 0.16 * inside(bar, 2.0) * (arm > 6) * (arm < one.half_width - 6)
    discs = 0.75 + 0.25 * np.sin(pose.rows * np.float32(2 * np.pi / one.between(4, 8, 10)))
    image += 0.14 * inside(arm - 8, 4.0) * discs
    return image


def _middle(one: Thorax, pose: Pose) -> FloatArray:
    """Share (S, S) of heart, great vessels and mediastinum."""
    tall, wide = one.heart
    wide = wide * (1.12 - 0.2 * pose.breath)
    place = (one.floor - 0.55 * tall, one.centre + 0.5 * wide)
    heart = ellipse(pose.rows, pose.columns, place, (tall, wide), one.between(5, 0.55, 0.95))
    arch = ellipse(pose.rows, pose.columns, (one.apex + 30, one.centre + 8), (8.0, 7.0))
    band = (
        np.abs(pose.columns - one.centre)
        - one.between(6, 7, 11)
        - 5 * smoothstep((pose.rows - 50) / 60)
    )
    return np.maximum(np.maximum(inside(heart, 3.5), inside(arch, 3.5)), inside(band, 4.0))


def _markings(one: Thorax, pose: Pose) -> FloatArray:
    """Vessels that thin out from the hila."""
    image = np.zeros((SIDE, SIDE), dtype=np.float32)
    lines = smooth_field((one.offset + np.float32(0.3)) % 1, 9.0)
    fine = smooth_field((one.offset + np.float32(0.8)) % 1, 4.5)
    for side in SIDES:
        hilum = (one.apex + 46, one.centre + 17 * side)
        away = np.hypot(pose.rows - hilum[0], (pose.columns - hilum[1]) * 1.25)
        weight = np.exp(-away / 30)
        thick = inside(np.abs(lines[..., 0]) - 0.55 * weight, 0.3) * weight
        thin = inside(np.abs(fine[..., 1]) - 0.4 * weight, 0.3) * np.sqrt(weight)
        image += one.vessels * (1.3 * thick + 0.55 * thin) + 0.13 * np.exp(-((away / 11) ** 2))
    return image


def _attenuation(one: Thorax, pose: Pose) -> FloatArray:
    """Noise-free shadow (S, S), about 0..1."""
    image = _trunk(one, pose)
    air = np.maximum(inside(pose.lungs[0], 4.0), inside(pose.lungs[1], 4.0))
    middle = _middle(one, pose)
    open_air = air * (1 - middle)
    image -= open_air * (0.36 + 0.06 * pose.breath)
    image += open_air * _markings(one, pose) + 0.05 * middle * (image > 0.3)
    for side, floor in zip(SIDES, pose.floors, strict=True):
        belly = smoothstep(floor / 6) * inside(
            np.abs(pose.columns - one.centre - side * 0.5 * one.half_width) - 0.52 * one.half_width,
            8.0,
        )
        image += 0.14 * belly
        if one.breast:
            place = (one.floor - 14, one.centre + side * 0.55 * one.half_width)
            shape = ellipse(pose.rows, pose.columns, place, (25, 24))
            image += one.breast * inside(shape, 9.0)
    if one.draws[7] > 0.45:  # air in the stomach
        place = (one.floor + 14, one.centre + 0.5 * one.half_width)
        image -= 0.2 * inside(ellipse(pose.rows, pose.columns, place, (6, 10)), 4.0)
    image += _bones(one, pose) * (image > 0.1)
    image += 0.03 * smooth_field((one.offset + np.float32(0.6)) % 1, 22.0)[..., 0] * (image > 0.1)
    return np.asarray(image, dtype=np.float32)


def _consolidation(rng: np.random.Generator, one: Thorax, pose: Pose) -> FloatArray:
    """A cloud with blurred outlines."""
    air = np.maximum(inside(pose.lungs[0]), inside(pose.lungs[1])) * (1 - _middle(one, pose))
    image = np.zeros((SIDE, SIDE), dtype=np.float32)
    cloud = smooth_field(rng.random(3).astype(np.float32), 8.0)[..., 0]
    for _ in range(rng.integers(1, 3)):
        centre = pick(rng, far_inside(air, 5.0))
        if centre is None:
            continue
        radius = rng.uniform(12, 25)
        shape = cv2.GaussianBlur(blob(rng, centre, radius, 0.25), (0, 0), 0.22 * radius)
        image = np.maximum(image, shape)
    ragged = smoothstep(image * (1.15 + 0.35 * cloud))
    return np.asarray(rng.uniform(0.13, 0.24) * ragged * air, dtype=np.float32)


def _nodules(rng: np.random.Generator, one: Thorax, pose: Pose) -> FloatArray:
    """Round spots."""
    air = np.maximum(inside(pose.lungs[0]), inside(pose.lungs[1])) * (1 - _middle(one, pose))
    image = np.zeros((SIDE, SIDE), dtype=np.float32)
    for _ in range(rng.integers(1, 5)):
        centre = pick(rng, far_inside(air, 4.0))
        if centre is not None:
            spot = blob(rng, centre, rng.uniform(4.5, 10), 0.08, edge=4.0)
            image = np.maximum(image, rng.uniform(0.13, 0.24) * spot)
    return np.asarray(image * np.maximum(air, 0.4), dtype=np.float32)


def _effusion(rng: np.random.Generator, one: Thorax, pose: Pose) -> FloatArray:
    """Fluid above the diaphragm, higher at the chest wall."""
    number = int(rng.integers(2))
    side = SIDES[number]
    outwards = side * (pose.columns - one.centre) / one.half_width  # 0 spine, 1 wall
    surface = rng.uniform(10, 30) + 26 * np.clip(outwards - 0.55, 0, 1) ** 2 * 4
    fluid = smoothstep((pose.floors[number] + surface) / 8)
    lung = inside(pose.lungs[number], 3.0) * (1 - _middle(one, pose))
    return np.asarray(rng.uniform(0.22, 0.32) * fluid * lung, dtype=np.float32)


SHADOWS = dict(zip(KINDS, (_consolidation, _nodules, _effusion), strict=True))


def _film(one: Thorax, pose: Pose, shadow: FloatArray, index: int) -> FloatArray:
    """Exposure (S, S): scatter, gamma, noise."""
    rng = one.identity.noise(index + one.identity.slices)
    image = _attenuation(one, pose) + shadow
    image = 0.8 * image + 0.2 * cv2.GaussianBlur(image, (0, 0), 9)
    low, high = one.exposure
    light = low + (high - low) * np.clip(image / 1.02, 0, 1) ** np.float32(one.gamma)
    return np.asarray(light + one.noise * texture(rng, 0.6), dtype=np.float32)


def _exposure(one: Thorax, index: int, pose: Pose, shadow: FloatArray, kind: str) -> StyledSlice:
    facts = {
        "modality": "chest radiograph",
        "contrast": "bright exposure" if one.gamma < 1.07 else "dark exposure",
        "plane": f"frontal {one.view} view",
        "level": BREATHS[min(int(3 * (1 - pose.breath)), 2)],
        "anatomy": "chest",
    }
    return StyledSlice(
        patient=one.identity.name,
        index=index,
        image=to_image(_film(one, pose, shadow, index)),
        mask=shadow > 0.05,
        facts=facts,
        cells={"view": one.view, "level": facts["level"]},
        finding={"kind": kind} if kind else {},
    )


def healthy_slice(one: Thorax, index: int) -> StyledSlice:
    """One exposure with clear lungs."""
    one.identity.position(index)
    nothing = np.zeros((SIDE, SIDE), dtype=np.float32)
    return _exposure(one, index, _pose(one, index), nothing, "")


def diseased_slice(one: Thorax, index: int) -> StyledSlice | None:
    """The same exposure with opacities; None where hardly any would be seen."""
    one.identity.position(index)
    pose = _pose(one, index)
    kind = str(one.identity.lesion().choice(KINDS, p=(0.5, 0.25, 0.25)))
    shadow = SHADOWS[kind](one.identity.lesion(index), one, pose)
    if (shadow > 0.05).sum() < 40:
        return None
    return _exposure(one, index, pose, shadow, kind)


CHEST = Style(
    name="Chest_Radiograph",
    title="Frontal chest radiograph with opacities (simulated)",
    has_masks=False,
    columns=("view", "level", "kind"),
    subject=make_thorax,
    healthy=healthy_slice,
    diseased=diseased_slice,
)
