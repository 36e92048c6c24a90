"""Intensities deeper than 8 bits: mixed, converted from 8 bits, clipped, or cut by the window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scanomaly.data.images import MAX_OUTSIDE, WINDOW_IMAGES, WINDOW_PERCENTILES
from scanomaly.data.rows import Row
from scanomaly.doctor.facts import FEW_LEVELS, QUANTILES, Facts
from scanomaly.doctor.findings import Finding
from scanomaly.doctor.survey import Survey

_BYTE = 256
_PLATEAU = 0.01
"""Share of pixels at the brightest value beyond which it is a ceiling, not a pixel."""
_BURNT = 0.05
"""The same for 8-bit images, where white paper and padding are common."""
_MANY = 0.05
"""Share of images that a window may cut without a warning."""
_SCALES = 8.0
"""Ratio between the brightnesses of images that one window cannot serve."""


def _deep(survey: Survey) -> list[tuple[Row, Facts]]:
    return [(row, f) for row, f in survey.images() if f.is_deep and not f.is_constant]


def mixed_depth(survey: Survey) -> Iterator[Finding]:
    """Deep images beside 8-bit ones: the window touches the deep ones alone."""
    images = [facts for _, facts in survey.images()]
    deep = [facts for facts in images if facts.is_deep]
    if 0 < len(deep) < len(images):
        yield Finding(
            "warning",
            "bit depth",
            f"{len(deep)} images have more than 8 bits and {len(images) - len(deep)} have 8; only "
            "the deep ones go through the intensity window",
            "export all in one depth, from the same intensities.",
            survey.some(facts.path for facts in deep),
        )


def converted(survey: Survey) -> Iterator[Finding]:
    """Deep files that hold no more than 8 bits."""
    poor = [f for _, f in _deep(survey) if FEW_LEVELS < f.levels <= _BYTE]
    if poor:
        yield Finding(
            "warning",
            "8 bits in a deep file",
            f"{len(poor)} deep images hold no more than {_BYTE} grey values: they were most likely "
            "converted from 8 bits, and what was cut then is lost",
            "export them again from the original scans.",
            survey.some(facts.path for facts in poor),
        )


def clipped(survey: Survey) -> Iterator[Finding]:
    """Many pixels at the very brightest value."""
    deep = [f for _, f in _deep(survey) if f.levels > FEW_LEVELS and f.at_highest > _PLATEAU]
    if deep:
        worst = max(facts.at_highest for facts in deep)
        yield Finding(
            "warning",
            "16-bit clipping",
            f"{len(deep)} deep images have a plateau at their brightest value (up to "
            f"{worst:.0%} of the pixels, at {deep[0].high:g} in the first): they were clipped",
            "export them without a window or with a wider one; bright lesions end there.",
            survey.some(facts.path for facts in deep),
        )
    shallow = [f for _, f in survey.images() if not f.is_deep and f.levels > FEW_LEVELS]
    burnt = [f for f in shallow if f.high == _BYTE - 1 and f.at_highest > _BURNT]
    if burnt and len(burnt) > len(shallow) // 2:
        yield Finding(
            "note",
            "saturated",
            f"{len(burnt)} of {len(shallow)} 8-bit images are white (255) in more than "
            f"{_BURNT:.0%} of their pixels",
            "check that they were not clipped when they were converted to 8 bits.",
            survey.some(facts.path for facts in burnt),
        )


def window(survey: Survey) -> Iterator[Finding]:
    """Deep images that the window of the training images would cut."""
    deep = [(row, facts) for row, facts in _deep(survey) if facts.quantiles]
    if not deep:
        return
    bright = np.array([facts.quantiles[QUANTILES.index(0.99)] for _, facts in deep])
    low, high = np.percentile(bright[bright > 0], (5, 95)) if (bright > 0).any() else (1.0, 1.0)
    if high / low > _SCALES:
        yield Finding(
            "warning",
            "intensity scales",
            f"the bright end of the deep images spans a factor of {high / low:.0f} ({low:g} to "
            f"{high:g}): one intensity window cannot serve them all",
            "export all with one scale, such as Hounsfield units, or normalise each before.",
        )
        return
    training = [f for row, f in deep if row.split == "train" and row.label is False]
    if training:
        yield from _cut(survey, deep, _pooled_window(training))


def _cut(
    survey: Survey, deep: Sequence[tuple[Row, Facts]], window: tuple[float, float]
) -> Iterator[Finding]:
    """Images of valid and test that lose more than MAX_OUTSIDE of their pixels."""
    others = [(row, facts) for row, facts in deep if row.split != "train"]
    dark, bright = QUANTILES.index(MAX_OUTSIDE), QUANTILES.index(1 - MAX_OUTSIDE)
    cut = [
        (row, facts)
        for row, facts in others
        if facts.quantiles[dark] < window[0] or facts.quantiles[bright] > window[1]
    ]
    if cut:
        abnormal = sum(bool(row.label) for row, _ in cut)
        yield Finding(
            "warning" if len(cut) > _MANY * len(others) else "note",
            "intensity window",
            f"the window of the training images, {window[0]:g} to {window[1]:g}, cuts more than "
            f"{MAX_OUTSIDE:.0%} of the pixels of {len(cut)} other images ({abnormal} abnormal)",
            "give a wider one with --set data.window=[LOW,HIGH].",
            survey.some(facts.path for _, facts in cut),
        )


def _pooled_window(training: Sequence[Facts]) -> tuple[float, float]:
    """About what `fit_window` would fit: percentiles over the pixels of as many of these images."""
    some = training[:: -(-len(training) // WINDOW_IMAGES)]
    values = np.array([facts.quantiles for facts in some])  # (images, quantiles)
    candidates = np.unique(values)
    # np.interp takes the last of equal quantiles: the share of pixels up to that value
    share = np.mean([np.interp(candidates, row, QUANTILES) for row in values], axis=0)
    low, high = np.interp(np.array(WINDOW_PERCENTILES) / 100, share, candidates)
    return float(low), float(high)
