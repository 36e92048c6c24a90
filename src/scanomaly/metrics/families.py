"""The metrics of a report, each with its interval; what is undefined says why and raises nothing.

n images, N maps
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanomaly.metrics.detection import checked_scores, why_undefined
from scanomaly.metrics.estimate import Estimate, UndefinedMetric
from scanomaly.metrics.histograms import group_histograms
from scanomaly.metrics.intervals import (
    Metric,
    class_sizes,
    estimates,
    group_indices,
    image_resampler,
)
from scanomaly.metrics.localisation import checked_pairs, count_pixels, gather_positives
from scanomaly.metrics.thresholds import (
    area_under_pro,
    area_under_roc,
    average_precision,
    best_dice,
    count_scores,
    sensitivity_at_specificity,
)

IMAGE_METRICS: Mapping[str, Metric] = {
    "auroc": area_under_roc,
    "ap": average_precision,
    "sensitivity_at_95_specificity": sensitivity_at_specificity,
}
PIXEL_METRICS: Mapping[str, Metric] = {
    "auroc": area_under_roc,
    "ap": average_precision,
    "aupro_0.3": area_under_pro,
    "dice_best": best_dice,
}
# average precision is left out: it follows the stratum's size
STRATUM_METRICS: Mapping[str, Metric] = {
    name: IMAGE_METRICS[name] for name in ("auroc", "sensitivity_at_95_specificity")
}


@dataclass(frozen=True, slots=True)
class Stratum:
    """One kind of positive against all negatives: how many, and the metrics by name."""

    positives: int
    metrics: Mapping[str, Estimate]


def image_metrics(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The metrics of IMAGE_METRICS with 95 % intervals.

    scores, labels: (n,). groups: (n,) patient of each image; None resamples single images.
    Raises ValueError for NaN scores, labels other than 0 and 1, or unequal lengths.
    """
    values, abnormal = checked_scores(scores, labels)
    group = group_indices(groups, len(values))
    return _image_estimates(IMAGE_METRICS, values, abnormal, group, repeats=repeats, seed=seed)


def pixel_metrics(
    maps: Iterable[ArrayLike],
    masks: Iterable[ArrayLike],
    groups: Sequence[Hashable] | None = None,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The metrics of PIXEL_METRICS with 95 % intervals.

    maps, masks, and the ValueErrors: `localisation.pixel_counts`. groups: (N,) patient of each
    map; None resamples single images. Values are exact, intervals as close as `histograms` says.
    """
    planes, truths = checked_pairs(maps, masks)
    group = group_indices(groups, len(planes))
    try:
        pixels = gather_positives(planes, truths)
    except UndefinedMetric as reason:
        return {name: Estimate.undefined(str(reason)) for name in PIXEL_METRICS}
    counts = count_pixels(planes, pixels)
    histograms = group_histograms(planes, pixels, counts, group)
    sizes = histograms.positives, histograms.negatives
    return estimates(PIXEL_METRICS, counts, histograms.resample, sizes, repeats=repeats, seed=seed)


def auroc_by_stratum(
    scores: ArrayLike,
    labels: ArrayLike,
    strata: Sequence[str | None],
    groups: Sequence[Hashable] | None = None,
    *,
    names: Sequence[str] | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Stratum]:
    """AUROC and sensitivity at 95 % specificity of each stratum's positives, by stratum.

    Each stratum is set against all negatives, so the threshold of the sensitivity is the same
    for all of them. strata: (n,) name of each positive's stratum; None leaves it out; a
    negative's is ignored. names: the strata to report and their order, empty ones too; without
    it those that occur, in order of appearance. Errors: `image_metrics`.
    """
    values, abnormal = checked_scores(scores, labels)
    group = group_indices(groups, len(values))
    if len(strata) != len(values):
        raise ValueError(f"{len(strata)} strata for {len(values)} images; each needs one or None.")
    found = [name for name, positive in zip(strata, abnormal, strict=True) if positive and name]
    of_image = np.array(strata, dtype=object)
    by_name = {}
    for name in names if names is not None else dict.fromkeys(found):
        kept = ~abnormal | (of_image == name)
        by_name[name] = Stratum(
            positives=int(abnormal[kept].sum()),
            metrics=_image_estimates(
                STRATUM_METRICS,
                values[kept],
                abnormal[kept],
                group[kept],
                repeats=repeats,
                seed=seed,
            ),
        )
    return by_name


def bin_names(edges: Sequence[float]) -> list[str]:
    """["4-6", "6-10"] for edges 4, 6, 10."""
    return [f"{low:g}-{high:g}" for low, high in pairwise(edges)]


def bins_of(values: ArrayLike, edges: Sequence[float]) -> list[str | None]:
    """Name of the bin of each value (n,), such as a lesion's diameter in mm.

    Bins hold their lower edge, the last one both; None outside all bins and for NaN.
    """
    sizes, names = np.asarray(values, dtype=float), bin_names(edges)
    index = np.searchsorted(edges, sizes, "right") - 1
    index[sizes == edges[-1]] = len(names) - 1
    return [names[i] if 0 <= i < len(names) else None for i in index]


def _image_estimates(
    metrics: Mapping[str, Metric],
    scores: NDArray[np.floating[Any]],
    abnormal: NDArray[np.bool_],
    group: NDArray[np.int64],
    *,
    repeats: int,
    seed: int,
) -> dict[str, Estimate]:
    """Metrics of checked scores (n,), labels (n,) and group indices (n,)."""
    why = why_undefined(abnormal)
    if why is not None:
        return {name: Estimate.undefined(why) for name in metrics}
    group = np.unique(group, return_inverse=True)[1]
    return estimates(
        metrics,
        count_scores(scores, abnormal),
        image_resampler(scores, abnormal, group),
        class_sizes(group, abnormal, ~abnormal),
        repeats=repeats,
        seed=seed,
    )
