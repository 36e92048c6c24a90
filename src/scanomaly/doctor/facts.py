"""What one image file holds, measured in one decoding: images and masks alike.

H W pixels, S side of a thumbnail
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanomaly.data.images import read_stored
from scanomaly.errors import DataError

THUMBNAIL = 32
"""Side in pixels of the pictures that near duplicates are told by."""
QUANTILES = (0.0, 0.001, 0.005, 0.01, 0.05, *(i / 10 for i in range(1, 10)))
QUANTILES = (*QUANTILES, 0.95, 0.99, 0.995, 0.999, 1.0)
"""Of the intensities of deep images, dense where a window cuts."""
FEW_LEVELS = 8
"""A picture of no more grey levels is a mask, not a scan."""
_FRAME = 0.02
"""Width of the border, as a share of the side."""
_CORNER = 8
"""A corner is the side divided by this."""
_GREY_MODES = ("1", "L", "LA")
_OPENCV_DTYPES = (np.uint8, np.uint16, np.float32)
"""Whose colours OpenCV turns to grey."""

Plane = NDArray[Any]
"""Grey values (H, W) of any depth."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Measurements of one file; all but path and error are 0 or empty where it cannot be read.

    bits: of a channel. levels: how many grey values occur, and `values` the lowest few of them.
    positive: share of pixels with a channel above 0. at_highest: share at the image's brightest
    value. not_finite: share of NaN and infinite pixels. tint: mean difference between the
    channels. border, dark_border, corner: mean of the frame, share of it at 0 or below, and mean of
    the brightest corner. quantiles: at QUANTILES, of deep images only. thumbnail: uint16 (S, S)
    between the darkest and the brightest of its pixels; None of constant images.
    """

    path: Path
    error: str = ""
    kind: str = ""
    mode: str = ""
    bits: int = 0
    height: int = 0
    width: int = 0
    size: int = 0
    digest: bytes = b""
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    spread: float = 0.0
    levels: int = 0
    values: tuple[float, ...] = ()
    positive: float = 0.0
    at_highest: float = 0.0
    extremes: float = 0.0
    not_finite: float = 0.0
    tint: float = 0.0
    border: float = 0.0
    dark_border: float = 0.0
    corner: float = 0.0
    quantiles: tuple[float, ...] = ()
    thumbnail: NDArray[np.uint16] | None = None

    @property
    def is_deep(self) -> bool:
        return self.bits > 8

    @property
    def is_constant(self) -> bool:
        return not self.error and self.levels <= 1


def measure(path: Path) -> Facts:
    """Decode one file and measure it; what cannot be read has an `error` and no measurements."""
    try:
        stored = read_stored(path)
    except DataError as error:
        return Facts(path, error=str(error))
    pixels = stored.pixels
    grey, tint = _grey(pixels, stored.mode)
    finite = np.isfinite(grey) if grey.dtype.kind == "f" else None
    kept = grey if finite is None else grey[finite]
    values, counts = _levels(kept)
    total = max(1, kept.size)
    mean = float(values @ counts / total) if len(values) else 0.0
    spread = float(np.sqrt(((values - mean) ** 2) @ counts / total)) if len(values) else 0.0
    border, dark_border, corner = _edges(grey)
    low, high = (float(values[0]), float(values[-1])) if len(values) else (0.0, 0.0)
    bits = grey.dtype.itemsize * 8
    return Facts(
        path=path,
        kind=stored.kind,
        mode=stored.mode,
        bits=bits,
        height=grey.shape[0],
        width=grey.shape[1],
        size=path.stat().st_size,
        digest=_digest(pixels),
        low=low,
        high=high,
        mean=mean,
        spread=spread,
        levels=len(values),
        values=tuple(float(value) for value in values[:FEW_LEVELS]),
        positive=_positive(pixels, grey, tint),
        at_highest=float(counts[-1] / total) if len(counts) else 0.0,
        extremes=_extremes(values, counts),
        not_finite=0.0 if finite is None else float(1 - finite.mean()),
        tint=tint,
        border=border,
        dark_border=dark_border,
        corner=corner,
        quantiles=_quantiles(values, counts) if bits > 8 else (),
        thumbnail=_thumbnail(grey) if finite is None or finite.all() else None,
    )


def _grey(pixels: NDArray[Any], mode: str) -> tuple[Plane, float]:
    """(H, W) and the mean difference between the highest and the lowest channel."""
    if pixels.ndim == 2:
        return pixels, 0.0
    if mode in _GREY_MODES:
        return np.ascontiguousarray(pixels[..., 0]), 0.0
    red, green, blue = (pixels[..., i] for i in range(3))
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    tint = float(highest.mean(dtype=np.float64) - lowest.mean(dtype=np.float64))
    if tint == 0:
        return np.ascontiguousarray(red), 0.0
    known = pixels if pixels.dtype in _OPENCV_DTYPES else pixels.astype(np.float32)
    return cv2.cvtColor(np.ascontiguousarray(known), cv2.COLOR_RGB2GRAY), tint


def _levels(grey: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The grey values that occur, ascending, and how often."""
    flat = grey.reshape(-1)
    if grey.dtype.kind == "u" and grey.dtype.itemsize <= 2:
        counted = np.bincount(flat)
        values = np.flatnonzero(counted)
        return values.astype(np.float64), counted[values].astype(np.float64)
    values, counts = np.unique(flat, return_counts=True)
    return values.astype(np.float64), counts.astype(np.float64)


def _positive(pixels: NDArray[Any], grey: Plane, tint: float) -> float:
    """Share of pixels that a mask of this picture marks; `read_mask` draws the same line."""
    marked = (pixels > 0).any(axis=2) if tint else grey > 0
    return float(marked.mean())


def _extremes(values: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Share of pixels within 3 % of the range from the darkest or the brightest value."""
    if len(values) < 2:
        return 1.0
    near = 0.03 * (values[-1] - values[0])
    at_end = (values <= values[0] + near) | (values >= values[-1] - near)
    return float(counts[at_end].sum() / counts.sum())


def _edges(grey: Plane) -> tuple[float, float, float]:
    """Mean of the frame, share of it at 0 or below, mean of the brightest corner."""
    height, width = grey.shape
    rows, columns = (max(1, round(_FRAME * side)) for side in (height, width))
    inner = grey[rows:-rows]
    parts = (grey[:rows], grey[-rows:], inner[:, :columns], inner[:, -columns:])
    frame = np.concatenate([part.reshape(-1) for part in parts])
    down, across = max(1, height // _CORNER), max(1, width // _CORNER)
    corners = (
        block.mean(dtype=np.float64)
        for band in (grey[:down], grey[-down:])
        for block in (band[:, :across], band[:, -across:])
    )
    return float(frame.mean(dtype=np.float64)), float((frame <= 0).mean()), float(max(corners))


def _quantiles(values: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, ...]:
    if not len(values):
        return ()
    reached = np.cumsum(counts) / counts.sum()
    at = np.searchsorted(reached, np.array(QUANTILES) - 1e-12)
    return tuple(float(value) for value in values[np.minimum(at, len(values) - 1)])


def _thumbnail(grey: Plane) -> NDArray[np.uint16] | None:
    """uint16 (S, S), from 0 to 65535; None where it shows nothing."""
    small = cv2.resize(
        grey.astype(np.float32), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA
    )
    low, high = float(small.min()), float(small.max())
    if not high > low:
        return None
    return ((small - low) * (65535 / (high - low))).round().astype(np.uint16)


def _digest(pixels: NDArray[Any]) -> bytes:
    """The same for two files of the same pixels, whatever their format."""
    made = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    made.update(np.ascontiguousarray(pixels).data)
    return made.digest()
