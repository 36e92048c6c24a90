"""Pixel-level metrics: where is the anomaly? Exact, over all pixels of all maps together.

Only the positive pixels are gathered and ranked. All pixels then pass through in sorted pieces,
in which the positive scores are looked up: memory above the maps is that of the pieces and of
the positives, whatever the number of maps.

N images, H W pixels (each image may have its own size), P positive pixels, T distinct scores
among them.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from scanomaly.metrics.estimate import UndefinedMetric
from scanomaly.metrics.thresholds import (
    DistinctPositives,
    Floats,
    ThresholdCounts,
    assemble,
    distinct_positives,
)

# 8-connected, as in the MVTec AD evaluation code and in anomalib (cv2.connectedComponents)
CONNECTIVITY = np.ones((3, 3), dtype=bool)
PIXELS_IN_FLIGHT = 1 << 25  # 128 MiB of float32 in sorted pieces at any time
LOOKUPS_AT_ONCE = 1 << 16  # positives looked up by one thread in one go: 512 KiB of indices


@dataclass(frozen=True, slots=True)
class PositivePixels:
    """The positive pixels of all images, and the connected region each belongs to.

    scores: (P,); region: (P,) index into region_size and region_image, both (regions,).
    """

    scores: Floats
    region: NDArray[np.int32]
    region_size: NDArray[np.int64]
    region_image: NDArray[np.int64]

    @property
    def region_share(self) -> NDArray[np.float64]:
        """(regions,) the share of its region that one pixel makes up."""
        return 1.0 / self.region_size


def pixel_counts(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike]) -> ThresholdCounts:
    """Exact counts and per-region overlap from which every pixel metric follows.

    maps: N anomaly maps, each (H, W) or (1, H, W), higher = more anomalous; sizes may differ.
    masks: N masks of the same shapes, positive where > 0. Images without a mask are the caller's
    to leave out. Sorting and looking up use the machine's cores through threads.
    Raises ValueError for unequal numbers or shapes and for NaN, UndefinedMetric where there is
    no map, no positive or no negative pixel.
    """
    planes, truths = checked_pairs(maps, masks)
    return count_pixels(planes, gather_positives(planes, truths))


def checked_pairs(
    maps: Iterable[ArrayLike], masks: Iterable[ArrayLike]
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Maps and masks as lists of (H, W) arrays, without copying arrays. Raises as pixel_counts."""
    planes = [_plane(array, "map", index) for index, array in enumerate(maps)]
    truths = [_plane(array, "mask", index) for index, array in enumerate(masks)]
    if len(planes) != len(truths):
        raise ValueError(f"{len(planes)} maps but {len(truths)} masks; each map needs its mask.")
    for index, (plane, truth) in enumerate(zip(planes, truths, strict=True)):
        if plane.shape != truth.shape:
            raise ValueError(
                f"map {index} is {plane.shape} but its mask is {truth.shape}; "
                "bring both to one pixel grid."
            )
    return planes, truths


def gather_positives(
    planes: Sequence[NDArray[Any]], truths: Sequence[NDArray[Any]]
) -> PositivePixels:
    """Scores and regions of the positive pixels of checked pairs.

    Raises UndefinedMetric as pixel_counts.
    """
    dtype = _sorting_dtype(planes)
    scores, regions, sizes, images = [], [], [], []
    found = 0
    for image, (plane, truth) in enumerate(zip(planes, truths, strict=True)):
        box = _bounding_box(truth)
        if box is None:
            continue
        labelled, count = ndimage.label(truth[box] > 0, CONNECTIVITY)
        positive = labelled > 0
        region = labelled[positive] - 1
        scores.append(plane[box][positive].astype(dtype, copy=False))
        regions.append((region + found).astype(np.int32, copy=False))
        sizes.append(np.bincount(region, minlength=count))
        images.append(np.full(count, image))
        found += count
    _require_both_classes(planes, sum(map(len, scores)))
    return PositivePixels(
        *map(np.concatenate, (scores, regions, sizes, images))  # in the order of the fields
    )


def count_pixels(planes: Sequence[NDArray[Any]], pixels: PositivePixels) -> ThresholdCounts:
    """Exact counts of checked maps whose positives were gathered. Raises ValueError for NaN."""
    positives, overlap = _ranked(pixels)
    below, not_above = _look_up(planes, positives)
    total = sum(plane.size for plane in planes)
    return assemble(positives, below, not_above, total, overlap)


def worker_count() -> int:
    """Threads to use: the cores this process may run on, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def _ranked(pixels: PositivePixels) -> tuple[DistinctPositives, Floats]:
    """The distinct scores, and (T + 1,) the mean region overlap beside their cumulative counts."""
    order = np.argsort(pixels.scores)
    positives = distinct_positives(pixels.scores[order])
    share = pixels.region_share / len(pixels.region_size)
    overlap = np.zeros(len(order) + 1)
    np.cumsum(share[pixels.region[order[::-1]]], out=overlap[1:])
    return positives, overlap[positives.cumulative]


def _look_up(
    planes: Sequence[NDArray[Any]], positives: DistinctPositives
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many pixels are < and <= each distinct positive score: (T,), (T,), ascending."""
    wanted = positives.ascending
    below, not_above = np.zeros((2, len(wanted)), dtype=np.int64)
    blocks = [slice(at, at + LOOKUPS_AT_ONCE) for at in range(0, len(wanted), LOOKUPS_AT_ONCE)]

    def add(block: slice, pieces: list[NDArray[Any]]) -> None:
        for piece in pieces:
            below[block] += piece.searchsorted(wanted[block], "left")
            not_above[block] += piece.searchsorted(wanted[block], "right")

    with ThreadPoolExecutor(worker_count()) as pool:
        for pieces in _sorted_pieces(planes, pool):
            # each block belongs to one thread: no two add to the same place
            list(pool.map(add, blocks, repeat(pieces)))
    return below, not_above


def _sorted_pieces(
    planes: Sequence[NDArray[Any]], pool: ThreadPoolExecutor
) -> Iterator[list[NDArray[Any]]]:
    """All pixels in sorted pieces, some at a time; the next ones overwrite them.

    Raises ValueError for NaN.
    """
    starts = np.cumsum([0, *(plane.size for plane in planes)])
    workers = worker_count()
    size = min(PIXELS_IN_FLIGHT, int(starts[-1])) // workers + 1
    buffers = np.empty((workers, size), _sorting_dtype(planes))

    def sorted_piece(buffer: NDArray[Any], start: int) -> NDArray[Any]:
        piece = buffer[: _copy_pixels(planes, starts, start, buffer)]
        piece.sort()
        return piece

    for start in range(0, int(starts[-1]), workers * size):
        wanted = range(start, min(start + workers * size, int(starts[-1])), size)
        pieces = list(pool.map(sorted_piece, buffers, wanted))
        # sorting puts NaN last
        if any(np.isnan(piece[-1]) for piece in pieces):
            raise ValueError(_where_nan(planes))
        yield pieces


def _copy_pixels(
    planes: Sequence[NDArray[Any]], starts: NDArray[np.int64], first: int, into: NDArray[Any]
) -> int:
    """Copy the pixels from number `first` on, counted over all maps, as many as fit or exist.

    starts: (N + 1,) the number of each map's first pixel, and the total. Returns how many.
    """
    end = min(first + len(into), int(starts[-1]))
    begins, ends = starts.searchsorted(first, "right") - 1, starts.searchsorted(end, "left")
    for index in range(begins, ends):
        low, high = max(first, starts[index]), min(end, starts[index + 1])
        pixels = planes[index].reshape(-1)
        into[low - first : high - first] = pixels[low - starts[index] : high - starts[index]]
    return end - first


def _plane(array: ArrayLike, kind: str, index: int) -> NDArray[Any]:
    """A (H, W) view of one map or mask."""
    plane = np.asarray(array)
    if plane.ndim < 2 or plane.size == 0 or any(axis != 1 for axis in plane.shape[:-2]):
        raise ValueError(f"{kind} {index} has shape {plane.shape}; expected (H, W) or (1, H, W).")
    return plane.reshape(plane.shape[-2:])


def _bounding_box(truth: NDArray[Any]) -> tuple[slice, slice] | None:
    """The smallest box (rows, columns) around the positive pixels; None where there are none."""
    positive = truth if truth.dtype == bool else truth > 0
    rows, columns = np.flatnonzero(positive.any(axis=1)), np.flatnonzero(positive.any(axis=0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _sorting_dtype(planes: Sequence[NDArray[Any]]) -> np.dtype[Any]:
    """A float type that holds every map's values; one for all, or searching would copy."""
    return np.result_type(np.float32, *{plane.dtype for plane in planes})


def _require_both_classes(planes: Sequence[NDArray[Any]], positives: int) -> None:
    """Raises UndefinedMetric unless there are positive and negative pixels."""
    total = sum(plane.size for plane in planes)
    if not planes:
        raise UndefinedMetric("no maps with a mask")
    if not positives or positives == total:
        kind = "positive" if not positives else "negative"
        raise UndefinedMetric(f"no {kind} pixel: {total} pixels in {len(planes)} masks")


def _where_nan(planes: Sequence[NDArray[Any]]) -> str:
    """The message that names the maps holding NaN."""
    bad = [index for index, plane in enumerate(planes) if np.isnan(plane).any()]
    return (
        f"{len(bad)} of {len(planes)} maps hold NaN, the first is map {bad[0]}; "
        "a NaN has no rank: leave these images out."
    )
