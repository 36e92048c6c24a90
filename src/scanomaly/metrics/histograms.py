"""Pixels of each patient, counted at a few well-placed thresholds, for bootstrap intervals.

Resampling all pixels is out of reach, resampling these counts is one matrix product. The
thresholds are distinct positive scores, so resampled counts are exact at them; between them the
ROC and PRO curves are taken as straight, and precision as linear in recall. With at most
`MAX_THRESHOLDS` distinct positive scores nothing is approximated. With more, all metrics of the
whole sample come within 1e-4 of their exact values (tested; 1e-6 on 57.6 million smooth pixels),
and the bounds of intervals within 0.5 % of the interval's width of those of exact metrics (tested).

R repeats, G groups, T thresholds in descending order, P positive pixels.
Axis of length 2: strictly above the threshold, and at or above it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanomaly.metrics.localisation import PositivePixels, worker_count
from scanomaly.metrics.thresholds import Floats, ThresholdCounts, dice

MAX_THRESHOLDS = 2048
PIXELS_AT_ONCE = 1 << 22  # positive pixels sorted into cells in one go: about 128 MiB


@dataclass(frozen=True, slots=True)
class GroupHistograms:
    """What each group adds to the counts at the thresholds.

    thresholds: (T,); flagged, true_positives: (G, T, 2) pixels and positive pixels; overlap:
    (G, T, 2) summed over the group's regions; pixels, positives, regions: (G,) totals.
    """

    thresholds: Floats
    flagged: NDArray[np.float64]
    true_positives: NDArray[np.float64]
    overlap: NDArray[np.float64]
    pixels: NDArray[np.int64]
    positives: NDArray[np.int64]
    regions: NDArray[np.int64]

    @property
    def negatives(self) -> NDArray[np.int64]:
        """(G,) negative pixels."""
        return self.pixels - self.positives

    def resample(self, weights: NDArray[np.float64]) -> ThresholdCounts:
        """Counts of the resampled groups; weights: (R, G), how often each was drawn."""
        flagged, true, overlap = (
            (weights @ counts.reshape(len(counts), -1)).reshape(len(weights), -1, 2)
            for counts in (self.flagged, self.true_positives, self.overlap)
        )
        false = np.subtract(flagged, true, out=flagged)
        overlap /= np.maximum(weights @ self.regions, 1)[:, None, None]
        return ThresholdCounts(
            thresholds=self.thresholds,
            true_positives=true[..., 1],
            true_positives_above=true[..., 0],
            false_positives=false[..., 1],
            false_positives_above=false[..., 0],
            positives=weights @ self.positives,
            negatives=weights @ self.negatives,
            overlap=overlap[..., 1],
            overlap_above=overlap[..., 0],
        )


def group_histograms(
    planes: Sequence[NDArray[Any]],
    pixels: PositivePixels,
    counts: ThresholdCounts,
    group: NDArray[np.int64],
    max_thresholds: int = MAX_THRESHOLDS,
) -> GroupHistograms:
    """Histograms of checked maps (N planes), their positives and exact counts.

    group: (N,) index of each map's group.
    """
    thresholds = chosen_thresholds(counts, max_thresholds)
    true_positives, overlap = _positive_counts(pixels, thresholds, group)
    region_group = group[pixels.region_image]
    sizes = np.array([plane.size for plane in planes])
    return GroupHistograms(
        thresholds=thresholds,
        flagged=_flagged(planes, thresholds, group),
        true_positives=true_positives,
        overlap=overlap,
        pixels=np.bincount(group, sizes).astype(np.int64),
        positives=np.bincount(
            region_group, pixels.region_size, minlength=int(group.max()) + 1
        ).astype(np.int64),
        regions=np.bincount(region_group, minlength=int(group.max()) + 1),
    )


def chosen_thresholds(counts: ThresholdCounts, max_thresholds: int) -> Floats:
    """At most about `max_thresholds` of the thresholds, (T,) descending.

    They lie at equal steps of a sum that climbs with the true positives, the region overlap, the
    false positives and their logarithm (where these are few, precision changes fast), so that
    each of the four changes little between two of them. The best Dice's threshold is kept.
    """
    last = len(counts.thresholds) - 1
    if last < max_thresholds:
        return counts.thresholds
    climbs = [counts.true_positives, counts.false_positives, np.log1p(counts.false_positives)]
    if counts.overlap is not None:
        climbs.append(counts.overlap)
    position = np.sum([climb / max(climb[-1], 1e-9) for climb in climbs], axis=0)
    steps = np.linspace(position[0], position[-1], max_thresholds)
    chosen = np.minimum(np.searchsorted(position, steps), last)
    kept = np.union1d(chosen, [np.argmax(dice(counts)), last])
    thresholds: Floats = counts.thresholds[kept]
    return thresholds


def _flagged(
    planes: Sequence[NDArray[Any]], thresholds: Floats, group: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(G, T, 2): all pixels of each group above, and at or above, each threshold."""
    ascending = np.ascontiguousarray(thresholds[::-1])
    flagged = np.zeros((int(group.max()) + 1, len(thresholds), 2))

    def count(plane: NDArray[Any]) -> NDArray[np.int64]:
        pixels = plane.astype(ascending.dtype).reshape(-1)
        pixels.sort()
        ends = [pixels.searchsorted(ascending, side) for side in ("right", "left")]
        return (len(pixels) - np.stack(ends, axis=-1))[::-1]

    with ThreadPoolExecutor(worker_count()) as pool:
        for index, counts in zip(group, pool.map(count, planes), strict=True):
            flagged[index] += counts
    return flagged


def _positive_counts(
    pixels: PositivePixels, thresholds: Floats, group: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(G, T, 2), (G, T, 2): positive pixels, and summed region overlap, of each group."""
    # 2 T + 1 cells: below all thresholds, at the lowest, between it and the next, at that, ...
    ascending = np.ascontiguousarray(thresholds[::-1])
    groups, cells = int(group.max()) + 1, 2 * len(ascending) + 1
    region_group, region_share = group[pixels.region_image], pixels.region_share
    positives, overlap = np.zeros((2, groups * cells))
    for start in range(0, len(pixels.scores), PIXELS_AT_ONCE):
        scores = pixels.scores[start : start + PIXELS_AT_ONCE]
        region = pixels.region[start : start + PIXELS_AT_ONCE]
        cell = ascending.searchsorted(scores, "left") + ascending.searchsorted(scores, "right")
        cell += region_group[region] * cells
        positives += np.bincount(cell, minlength=len(positives))
        overlap += np.bincount(cell, region_share[region], len(overlap))
    return _from_top(positives.reshape(groups, cells)), _from_top(overlap.reshape(groups, cells))


def _from_top(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """(G, 2 T + 1) cells, lowest first -> (G, T, 2) sums of all cells above, and from, each."""
    return cells[:, :0:-1].cumsum(axis=1).reshape(len(cells), -1, 2)
