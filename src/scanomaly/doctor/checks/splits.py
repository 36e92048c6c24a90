"""Splits: both classes where they are compared, patients on one side only, labels known."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from scanomaly.data.rows import SPLITS, Split
from scanomaly.doctor.findings import Finding
from scanomaly.doctor.published import PUBLISHED
from scanomaly.doctor.survey import Survey

_RARE = 0.1
"""Share of the rarer class below which AUROC alone flatters."""
_FEW = 20
"""Images of a class below which an interval is too wide to decide anything."""


def classes(survey: Survey) -> Iterator[Finding]:
    """Splits of one class, splits that are missing."""
    if survey.source.refusal:
        return
    counts = survey.manifest.counts()
    if not any(chain.from_iterable(counts.values())):
        yield Finding(
            "note",
            "labels",
            "no image is labelled normal or abnormal",
            "enough to predict; to fit or evaluate give folders named good and Ungood in train, "
            "valid and test, or a manifest.",
        )
        return
    yield from _training(survey, *counts.get("train", (0, 0)))
    yield from _one_class(survey, "valid", *counts.get("valid", (0, 0)))
    yield from _one_class(survey, "test", *counts.get("test", (0, 0)))
    yield from _balance(*counts.get("test", (0, 0)))


def _training(survey: Survey, normal: int, abnormal: int) -> Iterator[Finding]:
    if not normal:
        yield Finding(
            "warning",
            "one-class split",
            "train holds no normal image: methods that learn from normal images cannot be fitted",
            "add train/good; few-shot methods take their images from valid.",
        )
    if abnormal:
        rows = survey.manifest.split("train").abnormals()
        yield Finding(
            "note",
            "one-class split",
            f"train holds {abnormal} abnormal images, which methods that learn from normal ones "
            "leave out",
            "nothing to do, or move them to valid or test.",
            survey.some(row.path for row in rows),
        )


def _one_class(survey: Survey, split: Split, normal: int, abnormal: int) -> Iterator[Finding]:
    if normal and abnormal:
        return
    missing = "abnormal" if normal else "normal"
    if normal or abnormal:
        rows = survey.manifest.split(split)
        yield Finding(
            "error" if split == "test" else "warning",
            "one-class split",
            f"{split} has {normal} normal and {abnormal} abnormal images",
            f"add {missing} images: "
            + (
                "without both classes no metric of the image is defined."
                if split == "test"
                else "few-shot supports and the choice of a checkpoint need both classes."
            ),
            survey.some(row.path for row in rows),
        )
    elif split == "test":
        yield Finding(
            "warning",
            "one-class split",
            "there is no labelled test image",
            "add a test split before you evaluate.",
        )


def _balance(normal: int, abnormal: int) -> Iterator[Finding]:
    rarer, total = min(normal, abnormal), normal + abnormal
    if rarer and rarer / total < _RARE:
        yield Finding(
            "note",
            "imbalance",
            f"test has {normal} normal and {abnormal} abnormal images",
            "read average precision and sensitivity beside AUROC.",
        )
    if 0 < rarer < _FEW:
        yield Finding(
            "note",
            "small test",
            f"test has {rarer} images of its rarer class",
            "mind the intervals: differences between methods will not show.",
        )


def unlabelled(survey: Survey) -> Iterator[Finding]:
    """Images of unknown class where others are labelled, or of no split where others have one."""
    rows = survey.manifest.rows
    lacking = [row for row in rows if row.label is None]
    if 0 < len(lacking) < len(rows):
        yield Finding(
            "warning",
            "labels",
            f"{len(lacking)} of {len(rows)} images have no label and take part in nothing",
            "label them, or remove them.",
            survey.some(row.path for row in lacking),
        )
    nowhere = [row for row in rows if row.split is None]
    if 0 < len(nowhere) < len(rows):
        yield Finding(
            "warning",
            "labels",
            f"{len(nowhere)} of {len(rows)} images belong to no split and take part in nothing",
            "give them a split, or remove them.",
            survey.some(row.path for row in nowhere),
        )


def patients(survey: Survey) -> Iterator[Finding]:
    """Patients in several splits; patients that nobody names."""
    known = PUBLISHED.get(survey.manifest.dataset)
    for (first, second), shared in survey.manifest.patient_overlap().items():
        published = known is not None and (first, second) in known.shared_patients
        named = sorted(shared)[:3]
        rows = [r for r in survey.manifest.split(second) if r.patient in named]
        yield Finding(
            "warning" if published else "error",
            "patient leakage",
            f"{len(shared)} patients are in {first} and in {second}, such as {', '.join(named)}"
            + (" (so published)" if published else ""),
            f"keep each patient in one split; results on {second} are too good otherwise.",
            survey.some(row.path for row in rows),
        )
    rows = list(survey.manifest)
    unknown = [row for row in rows if row.patient is None]
    several = len({row.split for row in rows} & set(SPLITS)) > 1
    if unknown and several:
        yield Finding(
            "note" if len(unknown) == len(rows) else "warning",
            "patients",
            f"{len(unknown)} of {len(rows)} images name no patient: leakage between splits cannot "
            "be seen, and intervals resample images",
            "give a manifest with a patient column, if you know them.",
        )
