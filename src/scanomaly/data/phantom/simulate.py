"""Simulated patients: the same head, scanner and noise with or without a lesion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scanomaly.data.phantom.appearance import CONTRASTS, acquire
from scanomaly.data.phantom.errors import PhantomError
from scanomaly.data.phantom.fields import BoolArray, FloatArray, ImageArray
from scanomaly.data.phantom.imaging import Finding, Lesion, diseased_image, healthy_image
from scanomaly.data.phantom.lesions import KINDS, Draw, Model
from scanomaly.data.phantom.patient import SIDE, Patient, SliceField, draw_patient, slice_field

ALL_CONTRASTS = tuple(CONTRASTS)
DATA_SET, PRE_TRAINING = 0, 1  # disjoint families of patients
ANATOMY, LESION, NOISE = 0, 1, 2  # independent random streams of one patient
TRIES = 6  # attempts at placing one kind before another is drawn
PRE_TRAINING_SLICES = 8  # of each patient


@dataclass(frozen=True, slots=True)
class PhantomSlice:
    """One axial slice. image: uint8 (S, S); mask: bool (S, S); radiological orientation."""

    patient: str
    index: int
    contrast: str
    height_mm: float
    image: ImageArray
    mask: BoolArray
    lesion: Lesion | None


@dataclass(frozen=True, slots=True)
class Subject:
    """A patient with the seed of every random stream."""

    key: tuple[int, int, int]  # family, seed, index
    patient: Patient

    def rng(self, *stream: int) -> np.random.Generator:
        """A fresh generator of one stream, the same in any order and process."""
        return np.random.default_rng([*self.key, *stream])


def make_subject(
    family: int, seed: int, index: int, slices: int, contrasts: Sequence[str]
) -> Subject:
    """Draws the patient; PhantomError (a ValueError) for arguments that cannot be."""
    unknown = [name for name in contrasts if name not in CONTRASTS]
    if unknown or not contrasts:
        raise PhantomError(
            f"contrasts must be some of {', '.join(CONTRASTS)}; got {list(contrasts)}; "
            "leave the argument out for all of them."
        )
    check_numbers(seed, index, slices)
    rng = np.random.default_rng([family, seed, index, ANATOMY])
    name = f"phantom-{index:04d}"
    return Subject((family, seed, index), draw_patient(rng, name, slices, tuple(contrasts)))


def check_numbers(seed: int, index: int, slices: int) -> None:
    """PhantomError (a ValueError) for numbers that no patient can have."""
    if seed < 0 or index < 0 or slices < 1:
        raise PhantomError(
            f"seed and patient must be 0 or more and slices 1 or more; "
            f"got seed {seed}, patient {index}, slices {slices}."
        )


def healthy_slice(subject: Subject, index: int) -> PhantomSlice:
    """One slice of the subject without disease."""
    slice_ = slice_field(subject.patient, subject.patient.heights[index])
    return _scan(subject, index, slice_, healthy_image(subject.patient, slice_), None)


def _scan(
    subject: Subject, index: int, slice_: SliceField, clean: FloatArray, finding: Finding | None
) -> PhantomSlice:
    patient = subject.patient
    brain = slice_.mask(np.ones(len(slice_.pixels), dtype=np.bool_))
    return PhantomSlice(
        patient=patient.name,
        index=index,
        contrast=patient.appearance.contrast,
        height_mm=round(patient.heights[index], 2),
        image=acquire(patient.appearance, clean, brain, subject.rng(NOISE, index)),
        mask=finding.mask if finding else np.zeros((SIDE, SIDE), dtype=np.bool_),
        lesion=finding.lesion if finding else None,
    )


def draw_lesion(subject: Subject) -> Model:
    """A lesion for the subject; the slice it must cut is drawn first, so heights are alike."""
    rng, patient = subject.rng(LESION), subject.patient
    anchor = slice_field(patient, patient.heights[rng.integers(len(patient.heights))])
    weights = np.array([kind.weight for kind in KINDS.values()])
    for name in rng.choice(list(KINDS), len(KINDS), replace=False, p=weights / weights.sum()):
        for _ in range(TRIES):
            model = _fitted(subject, rng, anchor, str(name))
            if model is not None:
                return model
    raise RuntimeError(f"no lesion fits into {patient.name} (key {subject.key}); please report it.")


def _fitted(
    subject: Subject, rng: np.random.Generator, anchor: SliceField, name: str
) -> Model | None:
    """One attempt at a kind, scaled until its cut in the anchor slice has the diameter drawn."""
    low, high = KINDS[name].diameters
    wanted = float(rng.uniform(low, high))
    model = KINDS[name].build(Draw(rng, anchor, wanted, subject.patient.appearance.contrast))
    for _ in range(2):
        finding = model and diseased_image(subject.patient, anchor, model)
        if not model or not finding:
            return None
        model = model.scaled(float(np.clip(wanted / finding.lesion.diameter_mm, 0.5, 1.8)))
    return model if model and diseased_image(subject.patient, anchor, model) else None


def diseased_slice(subject: Subject, index: int, model: Model) -> PhantomSlice | None:
    """One slice of the subject with the lesion, None where it does not show."""
    slice_ = slice_field(subject.patient, subject.patient.heights[index])
    finding = diseased_image(subject.patient, slice_, model)
    return _scan(subject, index, slice_, finding.image, finding) if finding else None


def simulate_patient(
    seed: int,
    patient: int,
    *,
    diseased: bool,
    slices: int,
    contrasts: Sequence[str] = ALL_CONTRASTS,
) -> list[PhantomSlice]:
    """All slices of one patient, from low to high.

    The same seed, patient, slices and contrasts give the same head, scanner and noise, diseased or
    not. A diseased patient has one lesion (or several small ones of one kind); slices in which it
    does not show, or whose cut is under 4 mm, are healthy: lesion None and an empty mask.
    """
    subject = make_subject(DATA_SET, seed, patient, slices, contrasts)
    if not diseased:
        return [healthy_slice(subject, index) for index in range(slices)]
    model = draw_lesion(subject)
    return [
        diseased_slice(subject, index, model) or healthy_slice(subject, index)
        for index in range(slices)
    ]


def healthy_slices(
    seed: int, count: int, *, start: int = 0, contrasts: Sequence[str] = ALL_CONTRASTS
) -> ImageArray:
    """Part of an endless series of healthy slices, for pre-training: uint8 (count, S, S).

    start: number of the first slice, so that parts can be made apart. The patients are others than
    those of simulate_patient and write_phantom at any seed, and others at every seed.
    """
    if count < 0 or start < 0:
        raise PhantomError(f"count and start must be 0 or more; got count {count}, start {start}.")
    images = np.empty((count, SIDE, SIDE), dtype=np.uint8)
    for row, number in enumerate(range(start, start + count)):
        images[row] = _series_slice(seed, number, contrasts)
    return images


def _series_slice(seed: int, number: int, contrasts: Sequence[str]) -> ImageArray:
    index, slice_index = divmod(number, PRE_TRAINING_SLICES)
    subject = make_subject(PRE_TRAINING, seed, index, PRE_TRAINING_SLICES, contrasts)
    return healthy_slice(subject, slice_index).image
