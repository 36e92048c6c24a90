"""Simulated patients with skull and scalp, and what ails them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from scanomaly.data.phantom.appearance import acquire
from scanomaly.data.phantom.heads.imaging import HeadField, extent, head_field, ill_head
from scanomaly.data.phantom.heads.kinds import HEAD_KINDS, Anomaly, HeadKind, Request
from scanomaly.data.phantom.heads.skull import Skull, draw_skull
from scanomaly.data.phantom.imaging import Finding, diameter_of
from scanomaly.data.phantom.lesions import Draw
from scanomaly.data.phantom.patient import SIDE
from scanomaly.data.phantom.simulate import (
    ALL_CONTRASTS,
    LESION,
    NOISE,
    PhantomSlice,
    Subject,
    make_subject,
)

DETECTOR, QUESTIONS = 2, 3  # families of patients, disjoint from those of simulate.py
SKULL = 3  # random stream of a subject
PIXEL_MM = 1.45  # a whole head fits
LOWEST, HIGHEST = -12.0, 54.0  # MNI z of the slices, mm
NAMES: Mapping[int, str] = {DETECTOR: "phantom-head", QUESTIONS: "phantom-vqa"}
TRIES = 60  # attempts at placing one kind
NEIGHBOURS = 2  # slices away from the anchor that may be shown beside it


@dataclass(frozen=True, slots=True)
class Head:
    """A subject with a skull."""

    subject: Subject
    skull: Skull

    def field(self, index: int) -> HeadField:
        """One of the subject's slices."""
        patient = self.subject.patient
        return head_field(patient, self.skull, patient.heights[index])


def make_head(
    family: int, seed: int, index: int, slices: int, contrasts: Sequence[str] = ALL_CONTRASTS
) -> Head:
    """Draws a patient; PhantomError (a ValueError) for arguments that cannot be."""
    subject = make_subject(family, seed, index, slices, contrasts)
    rng = subject.rng(SKULL)
    span = (HIGHEST - LOWEST) / slices
    heights = LOWEST + span * (np.arange(slices) + rng.uniform(0, 1))
    patient = replace(
        subject.patient,
        name=f"{NAMES[family]}-{index:04d}",
        heights=tuple(float(height) for height in heights),
        pixel_mm=PIXEL_MM,
    )
    return Head(replace(subject, patient=patient), draw_skull(rng, patient.appearance))


def healthy_slice(head: Head, index: int) -> PhantomSlice:
    """One slice of the head without disease."""
    return _scan(head, index, head.field(index).healthy, None)


@dataclass(frozen=True, slots=True)
class Twins:
    """The same slice with and without the anomaly: same head, scanner and noise."""

    ill: PhantomSlice
    healthy: PhantomSlice


def twin_slices(head: Head, index: int, anomaly: Anomaly) -> Twins | None:
    """One slice with the anomaly and without; None where it does not show."""
    field = head.field(index)
    finding = ill_head(field, anomaly)
    if finding is None:
        return None
    return Twins(
        _scan(head, index, finding.image, finding), _scan(head, index, field.healthy, None)
    )


def _scan(head: Head, index: int, clean: np.ndarray, finding: Finding | None) -> PhantomSlice:
    patient = head.subject.patient
    everywhere = np.ones((SIDE, SIDE), dtype=np.bool_)
    return PhantomSlice(
        patient=patient.name,
        index=index,
        contrast=patient.appearance.contrast,
        height_mm=round(patient.heights[index], 2),
        image=acquire(patient.appearance, clean, everywhere, head.subject.rng(NOISE, index)),
        mask=finding.mask if finding else ~everywhere,
        lesion=finding.lesion if finding else None,
    )


@dataclass(frozen=True, slots=True)
class Ailment:
    """An anomaly and the slice in which it was placed."""

    anomaly: Anomaly
    anchor: int


def draw_ailment(head: Head, kinds: Sequence[str]) -> Ailment:
    """An anomaly of the first of these kinds that fits; RuntimeError where none does."""
    rng, heights = head.subject.rng(LESION), head.subject.patient.heights
    for kind in kinds:
        chosen = HEAD_KINDS[kind]
        low, high = chosen.heights
        inside = [index for index, z in enumerate(heights) if low <= z <= high]
        for _ in range(TRIES if inside else 0):
            anchor = int(rng.choice(inside))
            anomaly = _fitted(head, rng, head.field(anchor), chosen)
            if anomaly:
                return Ailment(anomaly, anchor)
    raise RuntimeError(
        f"none of {', '.join(kinds)} fits into {head.subject.patient.name} (key "
        f"{head.subject.key}) with {len(heights)} slices; please report it."
    )


def _fitted(
    head: Head, rng: np.random.Generator, field: HeadField, kind: HeadKind
) -> Anomaly | None:
    """One attempt, scaled until its cut in the anchor slice has the diameter drawn."""
    patient = head.subject.patient
    wanted = float(rng.uniform(*kind.diameters))
    draw = Draw(rng, field.brain, wanted, patient.appearance.contrast)
    anomaly = kind.build(Request(draw, patient))
    for _ in range(2 if kind.sized else 0):
        mask = extent(field, replace(anomaly, surface=())) if anomaly else None
        if anomaly is None or mask is None:
            return None
        factor = wanted / diameter_of(mask, patient.pixel_mm)
        anomaly = anomaly.scaled(float(np.clip(factor, 0.5, 1.8)))
    return anomaly if anomaly and extent(field, anomaly) is not None else None


def showing(head: Head, ailment: Ailment, count: int) -> list[Twins]:
    """At most `count` slices that show it: the anchor, then its neighbours."""
    order = sorted(
        range(len(head.subject.patient.heights)),
        key=lambda index: (abs(index - ailment.anchor), index),
    )
    near = (i for i in order if abs(i - ailment.anchor) <= NEIGHBOURS)
    found = (twin_slices(head, index, ailment.anomaly) for index in near)
    return list(islice(filter(None, found), count))
