"""A lesion meets a slice: the image without and with it, its mask and its measures.

S image side, N brain pixels.
"""

from collections import Counter
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy import ndimage

from scanomaly.data.phantom.anatomy import LOBES, load_template, lobe_of, ventricle_warp
from scanomaly.data.phantom.appearance import blur, tissue_intensity
from scanomaly.data.phantom.artefacts import PATTERNS
from scanomaly.data.phantom.fields import BoolArray, FloatArray
from scanomaly.data.phantom.lesions import DIAMETER_RANGE, Model
from scanomaly.data.phantom.patient import PIXEL_MM, Patient, SliceField

LARGEST_CHANGE = 0.85  # of a pixel, relative to the local tissue: more would be a caricature
MASK_LEVEL = 0.5  # share of a pixel that must be changed
# Diameter in mm times contrast: mild below the first, severe above the second, else moderate.
SEVERITY_LOADS = (3.0, 8.0)


@dataclass(frozen=True, slots=True)
class Lesion:
    """What a reader would note about the lesion of one slice.

    side: left, right, both or midline (the patient's own); lobe: where most of its pixels lie;
    diameter_mm: of the disc with the area of its largest part in this slice; contrast: mean
    absolute change in the mask over the mean of the same tissue without lesion; severity: mild,
    moderate or severe, by diameter times contrast.
    """

    kind: str
    side: str
    lobe: str
    diameter_mm: float
    contrast: float
    severity: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A slice with its lesion. image: (S, S) noise-free; mask: (S, S)."""

    image: FloatArray
    mask: BoolArray
    lesion: Lesion


def healthy_image(patient: Patient, slice_: SliceField) -> FloatArray:
    """Noise-free image (S, S) of a healthy slice."""
    return blur(patient.appearance, slice_.image(slice_.intensity * slice_.bias))


def diseased_image(patient: Patient, slice_: SliceField, model: Model) -> Finding | None:
    """The same slice with the lesion; None where its cut is not 4 to 40 mm wide."""
    base, mask, change = _change(patient, slice_, model)
    diameter = diameter_of(mask, patient.pixel_mm)
    if not DIAMETER_RANGE[0] <= diameter <= DIAMETER_RANGE[1]:
        return None
    surroundings = float(base[mask].mean())
    contrast = float(np.abs(change[mask]).mean()) / surroundings
    if model.contrast:
        if contrast == 0:
            return None
        change = change * np.float32(model.contrast / contrast)
        if np.percentile(np.abs(change[mask]), 98) > LARGEST_CHANGE * surroundings:
            return None
        contrast = model.contrast
    image = np.maximum(base + change, 0)
    points = slice_.points[mask.ravel()[slice_.pixels]]
    return Finding(image, mask, describe(model.kind, points, diameter, contrast))


def _change(
    patient: Patient, slice_: SliceField, model: Model
) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Image without intensity change, mask and intensity change: (S, S) each."""
    if model.ventricle_growth:
        return _ventricle_change(patient, slice_, model)
    moved = _displaced(patient, slice_, model)
    base = healthy_image(patient, moved)
    extent = np.max([part.alpha(moved) for part in model.components], axis=0)
    mask = _without_pinholes(slice_, slice_.mask(extent > MASK_LEVEL))
    if model.pattern:
        change = PATTERNS[model.pattern](base, model.pattern_draw) * slice_.image(extent)
    else:
        change = blur(
            patient.appearance, slice_.image(_intensity_change(moved, model) * slice_.bias)
        )
    return base, mask, change


def _without_pinholes(slice_: SliceField, mask: BoolArray) -> BoolArray:
    """Mask (S, S) with gaps of one or two pixels closed, as a reader would draw it."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    brain = slice_.mask(np.ones(len(slice_.pixels), dtype=np.bool_))
    return np.asarray((closed > 0) & brain)


def _displaced(patient: Patient, slice_: SliceField, model: Model) -> SliceField:
    """The slice after the mass effect, if there is one."""
    if model.push is None:
        return slice_
    points = model.push.source(slice_.points, slice_.shape[:, 4])
    return _with_tissue(patient, slice_, ventricle_warp(points, patient.ventricle_growth))


def _with_tissue(patient: Patient, slice_: SliceField, source: FloatArray) -> SliceField:
    tissue = load_template().tissue.sample(source)
    return replace(
        slice_, tissue=tissue, intensity=tissue_intensity(patient.appearance, tissue, source)
    )


def _intensity_change(slice_: SliceField, model: Model) -> FloatArray:
    """Change by each component laid over the previous ones (N,); later scaled to the contrast."""
    base = slice_.intensity
    result = base.copy()
    for part in model.components:
        alpha = part.alpha(slice_)
        inside = alpha > MASK_LEVEL
        if not inside.any():
            continue
        result += alpha * (part.target(base, inside) - result)
    return np.asarray(result - base, dtype=np.float32)


def _ventricle_change(
    patient: Patient, slice_: SliceField, model: Model
) -> tuple[FloatArray, BoolArray, FloatArray]:
    growth = patient.ventricle_growth + model.ventricle_growth
    wide = _with_tissue(patient, slice_, ventricle_warp(slice_.points, growth))
    gained = (wide.tissue[:, 2] - slice_.tissue[:, 2]) / 255
    near = slice_.shape[:, 0] < 25
    base = healthy_image(patient, slice_)
    return base, slice_.mask((gained > MASK_LEVEL) & near), healthy_image(patient, wide) - base


def diameter_of(mask: BoolArray, pixel_mm: float = PIXEL_MM) -> float:
    """Diameter in mm of the disc with the area of the largest part of a mask (S, S); 0 if empty."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return 0.0
    area = np.bincount(labels.ravel())[1:].max() * pixel_mm**2
    return float(2 * np.sqrt(area / np.pi))


def describe(kind: str, points: FloatArray, diameter: float, contrast: float) -> Lesion:
    """The words and numbers that go with a mask's MNI points (N, 3)."""
    lobes = Counter(lobe_of(points).tolist())
    load = diameter * contrast
    severity = (
        "mild" if load < SEVERITY_LOADS[0] else "moderate" if load < SEVERITY_LOADS[1] else "severe"
    )
    return Lesion(
        kind=kind,
        side=side_of(points),
        lobe=LOBES[max(lobes, key=lambda index: (lobes[index], -index))],
        diameter_mm=round(diameter, 2),
        contrast=round(contrast, 4),
        severity=severity,
    )


def side_of(points: FloatArray) -> str:
    """Left or right with four fifths of the points (N, 3); else midline near it, or both."""
    x = points[:, 0]
    right = float((x > 0).mean())
    if right >= 0.8 or right <= 0.2:
        return "right" if right >= 0.8 else "left"
    return "midline" if float(np.abs(x).mean()) < 8 else "both"
