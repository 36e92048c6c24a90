"""Counts at thresholds, and every ranking metric as a formula over them.

Between two neighbouring positive scores no true positive is gained, so all metrics follow
exactly from the counts at the distinct positive scores: those at or above each of them, and
those strictly above it (the two differ by ties). Only positives need ranks.

R bootstrap repeats (absent for a point estimate), T thresholds in descending order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanomaly.metrics.estimate import UndefinedMetric

Floats = NDArray[np.floating[Any]]
Counts = NDArray[Any]  # int64 for a point estimate, float64 for resampled counts


@dataclass(frozen=True, slots=True)
class ThresholdCounts:
    """How many positives and negatives lie at or above, and strictly above, each threshold.

    thresholds: (T,) descending; the last one is the lowest positive score.
    true_positives, true_positives_above, false_positives, false_positives_above: (..., T).
    positives, negatives: (...,) totals.
    overlap, overlap_above: (..., T) mean over regions of the share of the region's pixels at or
    above, and strictly above, the threshold; None where there are no regions (image scores).

    The thresholds of a point estimate are all distinct positive scores. Counts resampled from
    histograms have fewer: the formulas below then go straight from one threshold to the next.
    """

    thresholds: Floats
    true_positives: Counts
    true_positives_above: Counts
    false_positives: Counts
    false_positives_above: Counts
    positives: Counts
    negatives: Counts
    overlap: Floats | None = None
    overlap_above: Floats | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a curve for figures: x and y, each (points,), in 0..1, x ascending."""

    x: Floats
    y: Floats


@dataclass(frozen=True, slots=True)
class DistinctPositives:
    """The distinct positive scores, ascending: (T,).

    cumulative: (T + 1,) how many positives lie above the highest (none), at or above it, at or
    above the next, ..., at or above the lowest (all).
    """

    ascending: Floats
    cumulative: NDArray[np.int64]


def distinct_positives(ranked: Floats) -> DistinctPositives:
    """From the positive scores (P,) sorted ascending."""
    is_first = np.ones(len(ranked), dtype=bool)
    np.not_equal(ranked[1:], ranked[:-1], out=is_first[1:])
    first = np.flatnonzero(is_first)
    ascending = ranked[first]
    cumulative = np.zeros(len(first) + 1, dtype=np.int64)
    np.subtract(len(ranked), first[::-1], out=cumulative[1:])
    return DistinctPositives(ascending, cumulative)


def assemble(
    positives: DistinctPositives,
    below: NDArray[np.int64],
    not_above: NDArray[np.int64],
    total: int,
    overlap: Floats | None = None,
) -> ThresholdCounts:
    """Counts from what all scores, positive and negative together, do at the thresholds.

    below, not_above: (T,) how many of the `total` scores are < and <= each distinct positive
    score, ascending; both are overwritten. overlap: (T + 1,) beside `positives.cumulative`.
    """
    reached = positives.cumulative
    for counts, true_positives in ((below, reached[:0:-1]), (not_above, reached[-2::-1])):
        np.subtract(total, counts, out=counts)
        counts -= true_positives
    return ThresholdCounts(
        thresholds=positives.ascending[::-1],
        true_positives=reached[1:],
        true_positives_above=reached[:-1],
        false_positives=below[::-1],
        false_positives_above=not_above[::-1],
        positives=reached[-1],
        negatives=np.asarray(total - reached[-1]),
        overlap=None if overlap is None else overlap[1:],
        overlap_above=None if overlap is None else overlap[:-1],
    )


def count_scores(scores: Floats, labels: NDArray[np.bool_]) -> ThresholdCounts:
    """Exact counts of plain scores (n,) with labels (n,)."""
    positives = distinct_positives(np.sort(scores[labels]))
    ranked = np.sort(scores)
    below = ranked.searchsorted(positives.ascending, "left").astype(np.int64)
    not_above = ranked.searchsorted(positives.ascending, "right").astype(np.int64)
    return assemble(positives, below, not_above, len(scores))


def area_under_roc(counts: ThresholdCounts) -> Floats:
    """Area under the ROC curve (...,), ties counted half, as in Hanley and McNeil 1982."""
    area = _area(counts, counts.true_positives, counts.true_positives_above, counts.negatives)
    return np.asarray(area / (counts.positives * counts.negatives.astype(float)))


def area_under_pro(counts: ThresholdCounts, limit: float = 0.3) -> Floats:
    """Area under per-region overlap against false-positive rate up to `limit`, divided by it.

    (...,) in 0..1. Bergmann et al. 2021 (MVTec AD, section 5.2): every region weighs the same,
    the rate is over all negative pixels, the curve is cut at the limit by linear interpolation.
    Raises UndefinedMetric for counts that know no regions.
    """
    if counts.overlap is None or counts.overlap_above is None:
        raise UndefinedMetric("per-region overlap needs masks: these counts know no regions.")
    end = counts.negatives * limit
    return np.asarray(_area(counts, counts.overlap, counts.overlap_above, end) / end)


def average_precision(counts: ThresholdCounts) -> Floats:
    """Sum over thresholds of recall gained times precision (...,), as scikit-learn defines it.

    Positives between two thresholds (only where some were skipped) are taken as evenly spread
    among the negatives there, and precision as linear from the first to the last of them.
    """
    true, false = counts.true_positives, counts.false_positives
    gained = ((true - counts.true_positives_above) * _precision(true, false)).sum(-1)

    true, false = true[..., :-1], false[..., :-1]
    between = counts.true_positives_above[..., 1:] - true
    spacing = (counts.false_positives_above[..., 1:] - false) / (between + 1)
    first = _precision(true + 1, false + spacing)
    last = _precision(true + between, false + between * spacing)
    gained = gained + (between * (first + last)).sum(-1) / 2
    return np.asarray(gained / counts.positives)


def dice(counts: ThresholdCounts) -> Floats:
    """Dice (F1) of `score >= threshold` at every threshold, (..., T)."""
    flagged = counts.true_positives + counts.false_positives
    return np.asarray(2 * counts.true_positives / (flagged + counts.positives[..., None]))


def best_dice(counts: ThresholdCounts) -> Floats:
    """Highest Dice over all thresholds (...,); it is reached at a positive score."""
    return np.asarray(dice(counts).max(-1))


def best_dice_threshold(counts: ThresholdCounts) -> float:
    """Highest threshold at which `score >= threshold` has the best Dice (point estimates only)."""
    return float(counts.thresholds[np.argmax(dice(counts))])


def sensitivity_at_specificity(counts: ThresholdCounts, specificity: float = 0.95) -> Floats:
    """Highest sensitivity (...,) among thresholds whose specificity is at least `specificity`.

    A sample is flagged where its score >= threshold; flagging nothing (sensitivity 0,
    specificity 1) is always among the choices. No interpolation between thresholds.
    """
    # 1e-9: one false positive in ten is specificity 0.9, but (1 - 0.9) * 10 is 0.9999999999999998
    allowed = np.floor((1 - specificity) * counts.negatives + 1e-9)
    within = counts.false_positives <= allowed[..., None]
    return np.asarray((counts.true_positives * within).max(-1) / counts.positives)


def roc_points(counts: ThresholdCounts, max_points: int | None = None) -> Curve:
    """False-positive rate and sensitivity; collinear points left out (point estimates only).

    max_points: keep about that many, evenly along the thresholds, and both ends.
    """
    kept = _thinned(len(counts.thresholds), max_points)
    false = _interleave(counts.false_positives_above[kept], counts.false_positives[kept])
    true = _interleave(counts.true_positives_above[kept], counts.true_positives[kept])
    return Curve(
        np.concatenate([[0.0], false / counts.negatives, [1.0]]),
        np.concatenate([[0.0], true / counts.positives, [1.0]]),
    )


def precision_recall_points(counts: ThresholdCounts, max_points: int | None = None) -> Curve:
    """Recall and precision, with the fall just before each positive (point estimates only).

    The last point, at recall 1, is the prevalence. max_points: as in `roc_points`.
    """
    kept = _thinned(len(counts.thresholds), max_points)
    true = _interleave(counts.true_positives_above[kept], counts.true_positives[kept])
    false = _interleave(counts.false_positives_above[kept], counts.false_positives[kept])
    recall, precision = true[1:] / counts.positives, _precision(true[1:], false[1:])
    prevalence = counts.positives / (counts.positives + counts.negatives)
    return Curve(np.append(recall, 1.0), np.append(precision, prevalence))


def _precision(true_positives: Counts, false_positives: Counts) -> Floats:
    """Share of positives among the flagged; 0 where nothing is flagged."""
    flagged = true_positives + false_positives
    return np.asarray(true_positives / np.maximum(flagged, 1))


def _area(counts: ThresholdCounts, height: Counts, height_above: Counts, end: Counts) -> Floats:
    """Area (...,) under `height` against the number of false positives, from 0 to `end`."""
    false, false_above = counts.false_positives, counts.false_positives_above
    end = np.asarray(end)[..., None]
    ties = _trapezoids(false_above, height_above, false, height, end)
    first = _trapezoids(false_above[..., :1] * 0, height[..., :1] * 0, false_above[..., :1], 0, end)
    between = _trapezoids(
        false[..., :-1], height[..., :-1], false_above[..., 1:], height_above[..., 1:], end
    )
    last, last_height = np.minimum(false[..., -1:], end), height[..., -1:]
    return np.asarray(ties + first + between + ((end - last) * last_height).sum(-1))


def _trapezoids(x0: Counts, y0: Counts, x1: Counts, y1: Counts | int, end: Counts) -> Floats:
    """Summed area (...,) under the segments (x0, y0)-(x1, y1), as far as they lie left of `end`."""
    width = np.minimum(x1, end) - np.minimum(x0, end)
    # counts are whole numbers: a segment is 0 wide (and its share does not matter) or at least 1
    share = width / np.maximum(x1 - x0, 1)
    return np.asarray((width * (y0 + (y1 - y0) * share / 2)).sum(-1))


def _interleave(first: Counts, second: Counts) -> Counts:
    """(T,), (T,) -> (2 T,): first[0], second[0], first[1], ..."""
    return np.stack([first, second], axis=-1).reshape(-1)


def _thinned(thresholds: int, max_points: int | None) -> NDArray[np.int64]:
    """Indices of the thresholds to keep; each gives two points."""
    if max_points is None or 2 * thresholds <= max_points:
        return np.arange(thresholds)
    return np.unique(np.linspace(0, thresholds - 1, max(max_points // 2, 2)).astype(np.int64))
