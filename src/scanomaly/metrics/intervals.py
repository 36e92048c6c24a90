"""Patient-level bootstrap intervals: of ranking metrics, and of whatever items can be weighted by.

Whole patients (or single images, where patients are unknown: the caller's choice of `groups`)
are drawn with replacement, because images of one patient are not independent. A draw is a row of
weights, how often each group was drawn; counts at thresholds and sums over items are linear in
it, so no image, pixel or text is looked at again.

R repeats, n images, G groups, T thresholds in descending order.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from scanomaly.metrics.estimate import Estimate
from scanomaly.metrics.thresholds import Floats, ThresholdCounts, count_scores

Metric = Callable[[ThresholdCounts], Floats]
Resampler = Callable[[NDArray[np.float64]], ThresholdCounts]
Statistic = Callable[[Floats], Floats]
"""Weights of the items (R, n), 1 each for the sample as it is -> values (R,); NaN: undefined."""

LEVEL = 0.95
CELLS_AT_ONCE = 1 << 22  # weights held as float64 at any time: 32 MiB
_NO_ITEM = "nothing in the sample to compute it from"
Resampled = TypeVar("Resampled")
Name = TypeVar("Name", bound=Hashable)


def group_indices(groups: Sequence[Hashable] | None, images: int) -> NDArray[np.int64]:
    """(n,) index of each image's group; every image its own group where `groups` is None.

    Raises ValueError unless there is one group per image.
    """
    if groups is None:
        return np.arange(images)
    if len(groups) != images:
        raise ValueError(f"{len(groups)} groups for {images} images; each image needs its group.")
    index_of = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    return np.array([index_of[group] for group in groups], dtype=np.int64)


def bootstrap_weights(groups: int, repeats: int, seed: int) -> NDArray[np.int32]:
    """(R, G): how often each of the G groups came up in G draws with replacement."""
    rng = np.random.default_rng(seed)
    weights = np.empty((repeats, groups), dtype=np.int32)
    for row in weights:
        row[:] = np.bincount(rng.integers(groups, size=groups), minlength=groups)
    return weights


def image_resampler(
    scores: Floats, abnormal: NDArray[np.bool_], group: NDArray[np.int64]
) -> Resampler:
    """Function from weights (R, G) to the exact counts of the resampled images.

    scores, abnormal, group: (n,). The thresholds are the distinct positive scores of the whole
    sample: one that a repeat did not draw changes no metric.
    """
    order = np.argsort(-scores)
    positive = abnormal[order]
    counts = count_scores(scores, abnormal)
    # images at or above, and above, each threshold: columns of the running sums below
    reached = counts.true_positives + counts.false_positives
    above = counts.true_positives_above + counts.false_positives_above

    def resample(weights: NDArray[np.float64]) -> ThresholdCounts:
        drawn = weights[:, group[order]]  # (R, n)
        true, false = _running(drawn * positive), _running(drawn * ~positive)  # (R, n + 1)
        return ThresholdCounts(
            thresholds=counts.thresholds,
            true_positives=true[:, reached],
            true_positives_above=true[:, above],
            false_positives=false[:, reached],
            false_positives_above=false[:, above],
            positives=true[:, -1],
            negatives=false[:, -1],
        )

    return resample


def estimates(
    metrics: Mapping[str, Metric],
    counts: ThresholdCounts,
    resample: Resampler,
    class_sizes: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    repeats: int,
    seed: int,
) -> dict[str, Estimate]:
    """Each metric on the exact counts, with the 2.5 and 97.5 % quantiles over resampled ones.

    class_sizes: (G,), (G,) positives and negatives of each group. Repeats without one of the
    classes are dropped and counted in the estimates.
    """
    values = {name: float(metric(counts)) for name, metric in metrics.items()}
    positives, negatives = class_sizes
    why = _why_no_interval(positives, repeats)
    if why is not None:
        return {name: Estimate(value, why=why) for name, value in values.items()}
    weights = bootstrap_weights(len(positives), repeats, seed)
    usable = (weights @ positives > 0) & (weights @ negatives > 0)
    if not usable.any():
        why = f"none of {repeats} bootstrap repeats drew both classes"
        return {name: Estimate(value, why=why) for name, value in values.items()}
    found = draw_values(metrics, resample, weights[usable])
    return {name: _estimated(value, _at(usable, found[name])) for name, value in values.items()}


def _at(usable: NDArray[np.bool_], values: Floats) -> Floats:
    """values where usable (R,), NaN elsewhere."""
    draws = np.full(len(usable), np.nan)
    draws[usable] = values
    return draws


def weighted_estimates(
    statistics: Mapping[Name, Statistic],
    group: NDArray[np.int64],
    *,
    repeats: int,
    seed: int,
) -> dict[Name, Estimate]:
    """Each statistic on all items, with the 2.5 and 97.5 % quantiles over resampled ones.

    group: (n,) index of each item's group. A statistic that is NaN on all items is undefined; the
    repeats in which it is are dropped and counted in its estimate.
    """
    everything = np.ones((1, len(group)))
    values = {name: float(statistic(everything)[0]) for name, statistic in statistics.items()}
    group = np.unique(group, return_inverse=True)[1]
    why = _why_no_interval(np.bincount(group), repeats)
    if why is not None:
        return {name: _alone(value, why) for name, value in values.items()}
    weights = bootstrap_weights(int(group.max()) + 1, repeats, seed)
    draws = draw_values(statistics, lambda drawn: drawn[:, group], weights)
    return {name: _estimated(value, draws[name]) for name, value in values.items()}


def _alone(value: float, why: str) -> Estimate:
    """A value without interval."""
    return Estimate.undefined(_NO_ITEM) if np.isnan(value) else Estimate(value, why=why)


def _estimated(value: float, draws: Floats) -> Estimate:
    """draws: (R,), NaN where the statistic was undefined."""
    if np.isnan(value):
        return Estimate.undefined(_NO_ITEM)
    usable = draws[~np.isnan(draws)]
    if not len(usable):
        return Estimate(value, why=f"none of {len(draws)} bootstrap repeats drew what it needs")
    dropped = len(draws) - len(usable)
    return Estimate(value, *_bounds(usable), repeats=len(draws), dropped=dropped, draws=draws)


def class_sizes(
    group: NDArray[np.int64], positives: NDArray[Any], negatives: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives and negatives (n,) of each image, summed to those of each group (G,)."""
    return (
        np.bincount(group, positives).astype(np.int64),
        np.bincount(group, negatives).astype(np.int64),
    )


def draw_values(
    metrics: Mapping[Name, Callable[[Resampled], Floats]],
    resample: Callable[[NDArray[np.float64]], Resampled],
    weights: NDArray[np.int32],
    rows: int | None = None,
) -> dict[Name, Floats]:
    """The metrics of every row of weights (R, G), (R,) each, so many rows at a time."""
    step = rows or max(1, CELLS_AT_ONCE // weights.shape[1])
    blocks: dict[Name, list[Floats]] = {name: [] for name in metrics}
    for at in range(0, len(weights), step):
        counts = resample(weights[at : at + step].astype(np.float64))
        for name, metric in metrics.items():
            blocks[name].append(metric(counts))
    return {name: np.concatenate(found) for name, found in blocks.items()}


def _bounds(draws: Floats) -> tuple[float, float]:
    """Percentile interval of draws (R,)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _running(values: Floats) -> Floats:
    """(R, n) -> (R, n + 1): sums of the first 0, 1, ..., n columns."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _why_no_interval(positives: NDArray[np.int64], repeats: int) -> str | None:
    """Why resampling would say nothing; None where it would."""
    if repeats < 1:
        return "no bootstrap repeats asked for"
    if len(positives) < 2:
        return "one patient or image group only: nothing to resample"
    return None
