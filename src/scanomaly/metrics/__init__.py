"""Metrics: pure functions over arrays, without I/O and without knowledge of the other rooms.

`image_metrics`, `pixel_metrics` and `auroc_by_stratum` give everything a detector's report needs,
`closed_metrics`, `open_metrics` and `class_metrics` what that of answers needs;
`image_counts` and `pixel_counts` give the counts from which curves and single metrics follow.
"""

from scanomaly.metrics.answers import class_metrics, closed_metrics, mean_estimates, open_metrics
from scanomaly.metrics.detection import image_counts
from scanomaly.metrics.estimate import Estimate, UndefinedMetric
from scanomaly.metrics.families import (
    Stratum,
    auroc_by_stratum,
    bin_names,
    bins_of,
    image_metrics,
    pixel_metrics,
)
from scanomaly.metrics.localisation import pixel_counts
from scanomaly.metrics.thresholds import (
    Curve,
    ThresholdCounts,
    area_under_pro,
    area_under_roc,
    average_precision,
    best_dice,
    best_dice_threshold,
    precision_recall_points,
    roc_points,
    sensitivity_at_specificity,
)

__all__ = [
    "Curve",
    "Estimate",
    "Stratum",
    "ThresholdCounts",
    "UndefinedMetric",
    "area_under_pro",
    "area_under_roc",
    "auroc_by_stratum",
    "average_precision",
    "best_dice",
    "best_dice_threshold",
    "bin_names",
    "bins_of",
    "class_metrics",
    "closed_metrics",
    "image_counts",
    "image_metrics",
    "mean_estimates",
    "open_metrics",
    "pixel_counts",
    "pixel_metrics",
    "precision_recall_points",
    "roc_points",
    "sensitivity_at_specificity",
]
