"""One simulated patient: head shape, slice positions and the way from pixels to MNI points.

S image side, N brain pixels of a slice.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from scanomaly.data.phantom.anatomy import load_template, ventricle_warp
from scanomaly.data.phantom.appearance import (
    Appearance,
    bias_field,
    draw_appearance,
    tissue_intensity,
)
from scanomaly.data.phantom.fields import BoolArray, FloatArray, smooth_noise

SIDE = 160  # pixels
PIXEL_MM = 1.25
HEIGHTS_MM = (-10.0, 60.0)  # MNI z of the slices: the cerebrum
CENTRE_Y = -17.0  # mm: middle of the MNI brain from front to back
COARSE = 4  # pixels per node where smooth fields are evaluated


@dataclass(frozen=True, slots=True)
class Patient:
    """Everything that makes one patient, drawn once."""

    name: str
    heights: tuple[float, ...]  # MNI z of each slice, mm
    turn: FloatArray  # (3, 3) rotation of the head in the scanner
    size: FloatArray  # (3,) head size relative to MNI152
    shift: FloatArray  # (3,) mm
    deformation: tuple[float, float]  # mm: amplitude of the wide and of the fine deformation
    offset: FloatArray  # (3,) part of the noise volume used
    ventricle_growth: float  # mm
    appearance: Appearance
    pixel_mm: float = PIXEL_MM


@dataclass(frozen=True, slots=True)
class SliceField:
    """One slice of a patient before imaging, on its N brain pixels."""

    pixels: npt.NDArray[np.int64]  # (N,) flat index into (S, S)
    points: FloatArray  # (N, 3) MNI mm
    plane: FloatArray  # (N, 2) mm in the image plane
    shape: FloatArray  # (N, 5) see Template.shape
    tissue: FloatArray  # (N, 4) see Template.tissue
    intensity: FloatArray  # (N,) noise-free, before the bias field
    bias: FloatArray  # (N,)

    def image(self, values: FloatArray) -> FloatArray:
        """Values (N,) put on the pixel grid (S, S), 0 elsewhere."""
        canvas = np.zeros(SIDE * SIDE, dtype=np.float32)
        canvas[self.pixels] = values
        return canvas.reshape(SIDE, SIDE)

    def mask(self, values: BoolArray) -> BoolArray:
        """The same for booleans."""
        return np.asarray(self.image(values.astype(np.float32)) > 0)


def draw_patient(
    rng: np.random.Generator, name: str, slices: int, contrasts: tuple[str, ...]
) -> Patient:
    """A patient with evenly spaced slices from a random start; MNI152 is larger than most heads."""
    low, high = HEIGHTS_MM
    span = (high - low) * rng.uniform(0.7, 1.0) * (1 - 1 / max(slices, 1))
    start = rng.uniform(low, high - span)
    angles = rng.normal(0, 1, 3).clip(-2, 2) * (2.0, 1.5, 2.5)  # degrees: pitch, roll, in-plane
    head = rng.uniform(0.92, 1.02)
    return Patient(
        name=name,
        heights=tuple(float(start + span * k / max(slices - 1, 1)) for k in range(slices)),
        turn=Rotation.from_euler("xyz", angles, degrees=True).as_matrix().astype(np.float32),
        size=np.asarray(head * rng.uniform(0.97, 1.03, 3), dtype=np.float32),
        shift=rng.uniform(-2.5, 2.5, 3).astype(np.float32) * np.array([1, 1, 0], dtype=np.float32),
        deformation=(rng.uniform(1.5, 2.8), rng.uniform(0.8, 1.5)),
        offset=rng.random(3).astype(np.float32),
        ventricle_growth=float(rng.uniform(-1.2, 2.0)),
        appearance=draw_appearance(rng, str(rng.choice(contrasts))),
    )


def _plane(side: int, pixel_mm: float) -> FloatArray:
    """Millimetres from the image centre (side * side, 2): x to the patient's right, y anterior.

    Radiological convention: the patient's right is on the left of the image, anterior is up.
    """
    steps = -(np.arange(side, dtype=np.float32) - (side - 1) / 2) * np.float32(pixel_mm)
    y, x = np.meshgrid(steps, steps, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def _rigid(patient: Patient, height: float, plane: FloatArray) -> FloatArray:
    """MNI points (N, 3) of plane positions (N, 2) before deformation."""
    flat = plane @ patient.turn[:, :2].T / patient.size  # (N, 3)
    return np.asarray(flat + patient.shift + np.array([0, CENTRE_Y, height]), dtype=np.float32)


def slice_points(patient: Patient, height: float) -> tuple[FloatArray, FloatArray]:
    """MNI points (S * S, 3) and bias field (S * S,) of one slice."""
    nodes = _rigid(patient, height, _plane(SIDE // COARSE, patient.pixel_mm * COARSE))
    wide, fine = patient.deformation
    move = wide * smooth_noise(nodes, 28.0, patient.offset)
    move += fine * smooth_noise(nodes, 9.0, patient.offset + np.float32(0.5))
    coarse = np.concatenate([move, bias_field(patient.appearance, nodes)[:, None]], axis=-1)
    coarse = coarse.reshape(SIDE // COARSE, SIDE // COARSE, 4)
    full = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).reshape(-1, 4)
    points = _rigid(patient, height, _plane(SIDE, patient.pixel_mm)) + full[:, :3]
    return points, np.asarray(full[:, 3], dtype=np.float32)


def slice_field(patient: Patient, height: float) -> SliceField:
    """The healthy slice of a patient at an MNI height in mm."""
    return brain_field(patient, *slice_points(patient, height))


def brain_field(patient: Patient, points: FloatArray, bias: FloatArray) -> SliceField:
    """The brain in a slice of MNI points (S * S, 3) under a bias field (S * S,)."""
    template = load_template()
    near = np.flatnonzero(template.shape.sample(points)[:, 4] > 0)
    source = ventricle_warp(points[near], patient.ventricle_growth)
    tissue = template.tissue.sample(source)
    brain = tissue[:, :3].sum(axis=1) > 127
    pixels, points, tissue = near[brain], points[near[brain]], tissue[brain]
    return SliceField(
        pixels=pixels,
        points=points,
        plane=_plane(SIDE, patient.pixel_mm)[pixels],
        shape=template.shape.sample(points),
        tissue=tissue,
        intensity=tissue_intensity(patient.appearance, tissue, source[brain]),
        bias=bias[pixels],
    )
