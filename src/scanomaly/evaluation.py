"""Detector x split -> Evaluation: the only place that scores a test split.

n images, S method's side, H W pixels of the file
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scanomaly.config.run import Run
from scanomaly.data.manifest import Manifest
from scanomaly.data.splits import images_to_score
from scanomaly.errors import DataError
from scanomaly.inference import FittedDetector, Scored
from scanomaly.methods.base import CHOSEN_ON_TEST, Detector
from scanomaly.metrics import (
    Estimate,
    Stratum,
    auroc_by_stratum,
    bin_names,
    bins_of,
    image_metrics,
    pixel_metrics,
)
from scanomaly.panels import Panel, ScoredImage, choose_panels, native_mask

Protocol = Literal["honest", "paper"]
PixelGrid = Literal["model", "native"]

HONEST_CHECKPOINTS: Mapping[bool, str] = {
    True: "Honest numbers are of the last epoch of the same training, which no test image chose.",
    False: "Honest numbers are of the same checkpoint, which test images chose, and too good; fit "
    "again to keep the last epoch beside it.",
}
"""Whether the last epoch was kept beside the one that test images chose -> a note."""

SIZE_EDGES = (0.0, 2.5, 5.0, 10.0, 20.0, 100.0)
"""Bins of lesion size: diameter of a disc of the mask's area, in percent of the image side."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that a report says."""

    run: Run
    dataset: str
    protocol: Protocol
    pixel_grid: str
    """In words, such as `model 224x224`."""
    splits: Mapping[str, str]
    """What each split did: trained, chose the checkpoint, calibrated, scored."""
    image: Mapping[str, Estimate]
    pixel: Mapping[str, Estimate]
    by_size: Mapping[str, Stratum]
    """Lesion size as percent of the image side -> its positives against all negatives."""
    by_kind: Mapping[str, Stratum]
    """The same of each kind of anomaly, where the data set names them."""
    rows: tuple[ScoredImage, ...]
    panels: tuple[Panel, ...]
    threshold: float | None
    false_alarm_rate: float | None
    resampled: str
    """What the intervals resample: patients or images."""
    seconds_per_image: float
    weights: tuple[str, ...]
    """Pretrained weights and their licences."""
    notes: tuple[str, ...]
    """Everything a reader must know before trusting the numbers."""
    honest: Evaluation | None = None
    """Beside a published protocol: the same training scored honestly, at its last epoch where that
    was kept."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the detector says of every test image, in the order of the rows."""

    images: tuple[Scored, ...]
    seconds_per_image: float

    def of(self, test: Manifest) -> Scores:
        """Those of `test`, in its order."""
        by_id = {one.row.id: one for one in self.images}
        return replace(self, images=tuple(by_id[row.id] for row in test))


def evaluate(
    fitted: FittedDetector,
    manifest: Manifest,
    *,
    protocol: Protocol = "honest",
    pixel_grid: PixelGrid = "model",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score the test split of `manifest`. Raises DataError when there is none.

    protocol paper: as published, with the honest evaluation beside it.
    """
    test, notes = _labelled_test(fitted, manifest)
    unchosen = fitted if protocol == "honest" else fitted.at_last_epoch()
    scores = _score(unchosen, test, progress)
    honest = _evaluated(unchosen, manifest, test, scores, "honest", pixel_grid, notes)
    if protocol == "honest":
        return honest
    test, special = _as_published(fitted, test)
    with _published_scale(fitted, test):
        changed = unchosen is not fitted or fitted.detector.paper.ranges_from_test
        scores = _score(fitted, test, progress) if changed else scores.of(test)
        notes = [*notes, *special]
        paper = _evaluated(fitted, manifest, test, scores, "paper", pixel_grid, notes)
    return replace(paper, honest=honest)


def result_on_test(read: Callable[[], Manifest]) -> Callable[[Run, Detector], float]:
    """Image AUROC, plus pixel AUROC where there are masks: what published protocols maximise.

    read: the data set whose test split chooses; called when first needed.
    """
    kept = cache(read)

    def value(run: Run, detector: Detector) -> float:
        fitted, manifest = FittedDetector(run, detector), kept()
        test, _ = _labelled_test(fitted, manifest)
        with _published_scale(fitted, test):
            scores = _score(fitted, test, None)
        evaluation = _evaluated(fitted, manifest, test, scores, "paper", "model", [], panels=False)
        found = (evaluation.image["auroc"].value, evaluation.pixel["auroc"].value)
        return sum(one for one in found if one is not None)

    return value


def _labelled_test(fitted: FittedDetector, manifest: Manifest) -> tuple[Manifest, list[str]]:
    """The test images that metrics can use, and a note on the others. Raises DataError."""
    test = images_to_score(manifest, fitted.run.data)
    if not test.rows:
        raise DataError(
            f"{manifest.dataset}: expected a test split to evaluate on, found none "
            f"({manifest.source}); add test/good and test/Ungood, or use predict."
        )
    labelled = tuple(row for row in test if row.label is not None)
    if not labelled:
        raise DataError(f"{manifest.dataset}: no test image has a label; use predict instead.")
    lost = len(test) - len(labelled)
    notes = [f"{lost} test images without a label were left out."] if lost else []
    return replace(test, rows=labelled), notes


def _evaluated(
    fitted: FittedDetector,
    manifest: Manifest,
    test: Manifest,
    scores: Scores,
    protocol: Protocol,
    pixel_grid: PixelGrid,
    notes: list[str],
    *,
    panels: bool = True,
) -> Evaluation:
    """scores: of the rows of `test`, in their order."""
    rows = tuple(_line(fitted, one) for one in scores.images)
    notes = [*notes, *_notes(fitted, manifest, test)]
    pixel, sizes = _pixels(scores.images, test, pixel_grid, notes)
    values, labels = [row.score for row in rows], [bool(row.label) for row in rows]
    return Evaluation(
        run=fitted.run,
        dataset=manifest.dataset,
        protocol=protocol,
        pixel_grid=_grid_words(pixel_grid, fitted),
        splits={**fitted.splits, "scored": f"test: {_count_words(test)}"},
        image=image_metrics(values, labels, test.groups()),
        pixel=pixel,
        by_size=_by_size(values, labels, sizes, test),
        by_kind=_by_kind(values, labels, test),
        rows=rows,
        panels=choose_panels(fitted, test, rows) if panels else (),
        threshold=fitted.calibration.threshold if fitted.calibration else None,
        false_alarm_rate=fitted.calibration.false_alarm_rate if fitted.calibration else None,
        resampled="patients" if test.patients_known else "images (patients are unknown)",
        seconds_per_image=scores.seconds_per_image,
        weights=fitted.weights,
        notes=tuple(notes),
    )


def _score(
    fitted: FittedDetector, test: Manifest, progress: Callable[[int, int], None] | None
) -> Scores:
    """Every test image, reconstructions dropped at once: only scores and maps are kept."""
    started = time.monotonic()
    kept: list[Scored] = []
    for one in fitted.score_rows(test, with_masks=True):
        kept.append(replace(one, reconstruction=None))
        if progress:
            progress(len(kept), len(test))
    return Scores(tuple(kept), (time.monotonic() - started) / len(test))


def _line(fitted: FittedDetector, one: Scored) -> ScoredImage:
    calibration = fitted.calibration
    return ScoredImage(
        id=one.row.id,
        patient=one.row.patient,
        label=one.row.label,
        score=one.score,
        p_value=calibration.p_value(one.score) if calibration else None,
        flagged=calibration.flagged(one.score) if calibration else None,
    )


def _as_published(fitted: FittedDetector, test: Manifest) -> tuple[Manifest, list[str]]:
    """The images of the published protocol, and what readers must know."""
    paper, notes = fitted.detector.paper, []
    if paper.last_batch_lost is not None:
        test, note = _without_last_batch(test, fitted.run.fit.seed, paper.last_batch_lost)
        notes.append(note)
    if paper.ranges_from_test:
        notes.append(
            "Published protocol: scores and maps are scaled by their extremes over the whole test "
            "set, so that no image has a score of its own."
        )
    if fitted.splits.get("chose the checkpoint") == CHOSEN_ON_TEST:
        notes.append(HONEST_CHECKPOINTS[fitted.last_epoch is not None])
    return test, notes


def _published_scale(fitted: FittedDetector, test: Manifest) -> AbstractContextManager[None]:
    """While it lasts, the detector scales scores and maps as published."""
    if not fitted.detector.paper.ranges_from_test:
        return nullcontext()
    return fitted.detector.scaled_to(fitted.batches(test))


def _without_last_batch(test: Manifest, seed: int, size: int) -> tuple[Manifest, str]:
    """QFAE's loader: files shuffled with the seed, the last incomplete batch lost."""
    rows = list(test.rows)
    random.Random(seed).shuffle(rows)
    kept = len(rows) // size * size or len(rows)
    note = (
        f"Published protocol: test files are shuffled (seed {seed}, sorted first because listing "
        f"order is not portable) and the last incomplete batch of {size} is dropped: "
        f"{len(rows) - kept} of {len(rows)} images are not scored."
    )
    return replace(test, rows=tuple(rows[:kept])), note


def _notes(fitted: FittedDetector, manifest: Manifest, test: Manifest) -> list[str]:
    notes = list(dict.fromkeys([*manifest.overlap_words(), *fitted.notes]))
    if fitted.calibration is None:
        notes.append("Not calibrated: scores have no p-value and nothing is flagged.")
    elif not fitted.calibration.can_flag:
        notes.append(
            f"{len(fitted.calibration.scores)} healthy images are too few to flag anything at a "
            f"false-alarm rate of {fitted.calibration.false_alarm_rate:g}."
        )
    if not test.patients_known:
        notes.append("Patients are unknown: intervals resample single images and are too narrow.")
    return notes


def _pixels(
    scored: Sequence[Scored], test: Manifest, grid: PixelGrid, notes: list[str]
) -> tuple[dict[str, Estimate], list[float]]:
    """Pixel metrics, and each image's lesion size in percent of its side (0 without a mask)."""
    masks = [PIXEL_GRIDS[grid](one)[1] for one in scored]
    known = [i for i, mask in enumerate(masks) if mask is not None]
    sizes = [0.0 if mask is None else _disc_diameter(mask) for mask in masks]
    if len(known) < len(scored):
        notes.append(
            f"{len(scored) - len(known)} abnormal test images without a mask "
            "are left out of pixel metrics."
        )
    if not test.has_masks:
        why = "this data set has no masks"
        return {name: Estimate.undefined(why) for name in PIXEL_NAMES}, sizes
    maps = [PIXEL_GRIDS[grid](scored[i])[0] for i in known]
    groups = test.groups()
    return (
        pixel_metrics(maps, [masks[i] for i in known], [groups[i] for i in known]),  # type: ignore[misc]
        sizes,
    )


PIXEL_NAMES = ("auroc", "ap", "aupro_0.3", "dice_best")


def _on_model_grid(one: Scored) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    return one.anomaly_map, one.mask


def _on_native_grid(one: Scored) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    return one.geometry.to_input_grid(one.anomaly_map), native_mask(one.row, one.geometry.size)


PIXEL_GRIDS: Mapping[str, Callable[[Scored], tuple[NDArray[np.float32], NDArray[np.bool_] | None]]]
PIXEL_GRIDS = {"model": _on_model_grid, "native": _on_native_grid}


def _disc_diameter(mask: NDArray[np.bool_]) -> float:
    return float(200 * np.sqrt(mask.mean() / np.pi))


def _by_size(
    scores: Sequence[float], labels: Sequence[bool], sizes: Sequence[float], test: Manifest
) -> dict[str, Stratum]:
    if not any(sizes):
        return {}
    strata = [
        name if size > 0 else None
        for name, size in zip(bins_of(sizes, SIZE_EDGES), sizes, strict=True)
    ]
    return auroc_by_stratum(scores, labels, strata, test.groups(), names=bin_names(SIZE_EDGES))


def _by_kind(scores: Sequence[float], labels: Sequence[bool], test: Manifest) -> dict[str, Stratum]:
    kinds = [row.kind for row in test]
    names = sorted({row.kind for row in test if row.kind is not None and row.label})
    return auroc_by_stratum(scores, labels, kinds, test.groups(), names=names)


def _grid_words(grid: PixelGrid, fitted: FittedDetector) -> str:
    side = fitted.detector.input_spec.side
    return f"model {side}x{side}" if grid == "model" else "native, each file's own"


def _count_words(manifest: Manifest) -> str:
    good, abnormal = len(manifest.normals()), len(manifest.abnormals())
    return f"{good} normal and {abnormal} abnormal images"
