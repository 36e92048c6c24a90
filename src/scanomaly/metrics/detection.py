"""Image-level metrics: is the image abnormal? Scores (n,), higher = more anomalous; labels (n,)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanomaly.metrics.estimate import UndefinedMetric
from scanomaly.metrics.thresholds import (
    ThresholdCounts,
    area_under_roc,
    average_precision,
    count_scores,
    sensitivity_at_specificity,
)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Exact area under the ROC curve, ties counted half. Errors: `image_counts`."""
    return float(area_under_roc(image_counts(scores, labels)))


def ap(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision as scikit-learn defines it. Errors: `image_counts`."""
    return float(average_precision(image_counts(scores, labels)))


def sensitivity(scores: ArrayLike, labels: ArrayLike, specificity: float = 0.95) -> float:
    """Highest sensitivity among thresholds with at least this specificity; see `thresholds`.

    Errors: `image_counts`.
    """
    return float(sensitivity_at_specificity(image_counts(scores, labels), specificity))


def image_counts(scores: ArrayLike, labels: ArrayLike) -> ThresholdCounts:
    """Counts from which every image metric and curve follows.

    Raises ValueError for NaN scores, labels other than 0 and 1, or unequal lengths, and
    UndefinedMetric for an empty set or one class only.
    """
    checked, abnormal = checked_scores(scores, labels)
    why = why_undefined(abnormal)
    if why is not None:
        raise UndefinedMetric(why)
    return count_scores(checked, abnormal)


def checked_scores(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
    """Scores as floats (n,) and labels as booleans (n,). Raises ValueError as `image_counts`."""
    values, truth = np.asarray(scores), np.asarray(labels)
    values = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(
            f"scores {values.shape} and labels {truth.shape} must be one number each per image."
        )
    missing = int(np.isnan(values).sum())
    if missing:
        raise ValueError(
            f"{missing} of {len(values)} scores are NaN, the first at index "
            f"{int(np.isnan(values).argmax())}; a NaN has no rank: leave these images out."
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {np.unique(truth)[:5].tolist()}.")
    return values, truth.astype(bool)


def why_undefined(abnormal: NDArray[np.bool_]) -> str | None:
    """Why ranking metrics have no value for these labels (n,); None where they have one."""
    positives = int(abnormal.sum())
    normals = len(abnormal) - positives
    if not len(abnormal):
        return "no images"
    if not positives or not normals:
        return f"one class only: {normals} normal, {positives} abnormal images"
    return None
