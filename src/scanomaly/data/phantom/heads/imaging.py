"""A whole head in a slice, healthy or with an anomaly: noise-free image, mask and measures.

S image side, N pixels where skull and scalp may be.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from scanomaly.data.phantom.appearance import blur
from scanomaly.data.phantom.artefacts import PATTERNS
from scanomaly.data.phantom.fields import BoolArray, FloatArray
from scanomaly.data.phantom.heads.kinds import Anomaly, Artefact
from scanomaly.data.phantom.heads.skull import (
    Layers,
    Skull,
    layers_at,
    outer_tissue,
    outlines,
)
from scanomaly.data.phantom.imaging import (
    MASK_LEVEL,
    Finding,
    describe,
    diameter_of,
    diseased_image,
    healthy_image,
)
from scanomaly.data.phantom.lesions import DIAMETER_RANGE
from scanomaly.data.phantom.patient import SIDE, Patient, SliceField, brain_field, slice_points

RIM = (-16.0, 34.0)  # mm outside the brain's hull: where layers are worked out


@dataclass(frozen=True)
class HeadField:
    """One slice of a healthy head before imaging."""

    patient: Patient
    skull: Skull
    points: FloatArray  # (S * S, 3) MNI mm
    bias: FloatArray  # (S * S,)
    brain: SliceField
    rim: npt.NDArray[np.int64]  # (N,) flat index of the pixels where layers are worked out

    @cached_property
    def layers(self) -> Layers:
        """The healthy layers of the rim."""
        return layers_at(self.skull, self.points[self.rim])

    @cached_property
    def healthy_brain(self) -> FloatArray:
        """Noise-free image (S, S) of the brain alone."""
        return healthy_image(self.patient, self.brain)

    @cached_property
    def healthy_shell(self) -> FloatArray:
        """Noise-free image (S, S) of all that is round it."""
        return _shell(self, self.layers)

    @property
    def healthy(self) -> FloatArray:
        """Noise-free image (S, S) of the healthy head."""
        return self.healthy_brain + self.healthy_shell

    def canvas(self, values: FloatArray) -> FloatArray:
        """Values (N,) of the rim put on the pixel grid (S, S), 0 elsewhere."""
        canvas = np.zeros(SIDE * SIDE, dtype=np.float32)
        canvas[self.rim] = values
        return canvas.reshape(SIDE, SIDE)

    @cached_property
    def share(self) -> FloatArray:
        """Brain in each pixel of the rim, 0..1 (N,)."""
        tissue = np.zeros(SIDE * SIDE, dtype=np.float32)
        tissue[self.brain.pixels] = self.brain.tissue[:, :3].sum(axis=1) / 255
        return np.clip(tissue[self.rim], 0, 1)


def head_field(patient: Patient, skull: Skull, height: float) -> HeadField:
    """The healthy slice of a head at an MNI height in mm."""
    points, bias = slice_points(patient, height)
    inner = outlines().sample(points)[:, 0]
    rim = np.flatnonzero((inner > RIM[0]) & (inner < RIM[1]))
    return HeadField(patient, skull, points, bias, brain_field(patient, points, bias), rim)


def _shell(field: HeadField, layers: Layers) -> FloatArray:
    """Noise-free image (S, S) of skull, scalp and what covers the brain."""
    share = np.where(field.share > 0, np.maximum(layers.cover, 1 - field.share), 1)
    value = outer_tissue(field.skull, layers, field.patient.appearance.tissues.csf)
    around = field.canvas(share * value * field.bias[field.rim])
    return blur(field.patient.appearance, around)


def _surface(field: HeadField, anomaly: Anomaly) -> tuple[Layers, BoolArray]:
    """The ill layers, and what of them a reader would mark (S, S)."""
    layers, marked = field.layers, np.zeros(len(field.rim), dtype=np.bool_)
    for change in anomaly.surface:
        ill = change.apply(field.skull, layers)
        layers, marked = ill, marked | change.marks(field.layers, ill)
    return layers, field.canvas(marked.astype(np.float32)) > 0


def extent(field: HeadField, anomaly: Anomaly) -> BoolArray | None:
    """The mask (S, S) of an anomaly without making the picture; None where ill_head has none."""
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    if anomaly.lesion:
        found = diseased_image(field.patient, field.brain, anomaly.lesion)
        if found is None:
            return None
        mask |= found.mask
    if anomaly.surface:
        mask |= _surface(field, anomaly)[1]
    if anomaly.artefact:
        mask |= _region(field, anomaly.artefact) > MASK_LEVEL
    return mask if DIAMETER_RANGE[0] <= _diameter(field, mask) <= DIAMETER_RANGE[1] else None


def _diameter(field: HeadField, mask: BoolArray) -> float:
    return diameter_of(mask, field.patient.pixel_mm)


def ill_head(field: HeadField, anomaly: Anomaly) -> Finding | None:
    """The slice with the anomaly; None where its cut is not 4 to 40 mm wide.

    Its contrast is relative to what was there, but at least to grey matter: air and bone are dark.
    """
    mask = extent(field, anomaly)
    if mask is None:
        return None
    brain, shell = field.healthy_brain, field.healthy_shell
    if anomaly.lesion:
        found = diseased_image(field.patient, field.brain, anomaly.lesion)
        brain = found.image if found else brain
    if anomaly.surface:
        layers, _ = _surface(field, anomaly)
        covered = field.canvas(np.where(field.share > 0, layers.cover, 0))
        brain = brain * (1 - blur(field.patient.appearance, covered))
        shell = _shell(field, layers)
    image = brain + shell
    if anomaly.artefact:
        image = _spoilt(image, _region(field, anomaly.artefact), anomaly.artefact)
    healthy = field.healthy
    level = max(float(healthy[mask].mean()), field.patient.appearance.tissues.grey)
    contrast = float(np.abs(image - healthy)[mask].mean()) / level
    points = field.points[mask.ravel()]
    return Finding(image, mask, describe(anomaly.kind, points, _diameter(field, mask), contrast))


def _region(field: HeadField, artefact: Artefact) -> FloatArray:
    """How strong an artefact is, 0..1 (S, S)."""
    return artefact.blob.alpha(field.points, 0.6 * artefact.blob.radius).reshape(SIDE, SIDE)


def _spoilt(image: FloatArray, region: FloatArray, artefact: Artefact) -> FloatArray:
    """The picture (S, S) with the artefact, scaled to its contrast."""
    change = PATTERNS[artefact.pattern](image, artefact.pattern_draw) * region
    mask = region > MASK_LEVEL
    size = float(np.abs(change[mask]).mean())
    scale = artefact.contrast * float(image[mask].mean()) / max(size, 1e-6)
    return np.asarray(np.maximum(image + np.float32(scale) * change, 0), dtype=np.float32)
