"""The charts of a report as PNG, each for light and for dark pages.

Drawn with matplotlib's Figure and Agg canvas; pyplot's global state is never touched.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scanomaly.metrics import (
    Curve,
    Stratum,
    UndefinedMetric,
    image_counts,
    precision_recall_points,
    roc_points,
)
from scanomaly.report.tables import flags_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scanomaly.evaluation import Evaluation
    from scanomaly.panels import ScoredImage

DOTS_PER_INCH = 200
CURVE_POINTS = 2000
LOGARITHMIC_FROM = 100.0
"""Scores whose largest is so many times the smallest are shown on a logarithmic axis."""
SIZE_METRIC = "sensitivity_at_95_specificity"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a page. normal and abnormal can be told apart without colour vision."""

    paper: str
    ink: str
    faint: str
    normal: str
    abnormal: str


LIGHT = Theme(paper="#ffffff", ink="#1c2024", faint="#d5d9de", normal="#0072b2", abnormal="#d55e00")
DARK = Theme(paper="#14171a", ink="#e3e6e9", faint="#3a4047", normal="#62b5e8", abnormal="#f08c3a")


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing in two themes, or the reason (why) for none; caption is plain text."""

    title: str
    caption: str
    light: bytes = b""
    dark: bytes = b""
    why: str = ""


Draw = Callable[["Axes", Theme], None]


def curve_charts(evaluation: Evaluation) -> list[Chart]:
    """ROC curve, precision-recall curve and score histogram."""
    rows = evaluation.rows
    scores = np.array([row.score for row in rows], dtype=float)
    abnormal = np.array([row.label is True for row in rows])
    histogram = _chart(
        "Scores",
        f"Share of each class. {_threshold_words(evaluation.threshold)}",
        lambda axes, theme: _histogram(axes, theme, scores, abnormal, evaluation.threshold),
    )
    try:
        counts = image_counts(scores, abnormal)
    except UndefinedMetric as reason:
        missing = [Chart(title, "", why=f"Undefined: {reason}.") for title in CURVES]
        return [*missing, histogram]
    curves = [of(counts, CURVE_POINTS) for of in (roc_points, precision_recall_points)]
    points, prevalence = _operating_points(rows), float(abnormal.mean())
    baselines = [[(0.0, 0.0), (1.0, 1.0)], [(0.0, prevalence), (1.0, prevalence)]]
    charts = [
        _curve_chart(title, curve, point, baseline)
        for title, curve, point, baseline in zip(CURVES, curves, points, baselines, strict=True)
    ]
    return [*charts, histogram]


Point = tuple[float, float]

CURVES: Mapping[str, tuple[str, str, str]] = {
    "ROC curve": ("false-positive rate", "sensitivity", "guessing"),
    "Precision and recall": ("recall (sensitivity)", "precision", "the share of abnormal images"),
}
"""Title -> x axis, y axis, what the dotted line is."""


def size_chart(by_size: Mapping[str, Stratum]) -> Chart | None:
    """Sensitivity of each lesion size with its interval; None where no size is known."""
    if not by_size:
        return None
    return _chart(
        "Sensitivity by lesion size",
        "Lesions of each size against all normal images, at the one threshold that leaves 95 % of "
        "normal images unflagged.",
        lambda axes, theme: _sizes(axes, theme, by_size),
        width=4.6,
    )


def _curve_chart(title: str, curve: Curve, point: Point | None, baseline: Sequence[Point]) -> Chart:
    x_label, y_label, dotted = CURVES[title]

    def draw(axes: Axes, theme: Theme) -> None:
        axes.plot(*zip(*baseline, strict=True), ":", color=theme.ink, linewidth=0.9)
        axes.plot(curve.x, curve.y, color=theme.abnormal, linewidth=1.5)
        if point:
            axes.plot(*point, "o", color=theme.ink, markersize=5.5, clip_on=False, zorder=5)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))

    mark = "dot: the calibrated threshold" if point else "no calibrated threshold"
    return _chart(title, f"Dotted line: {dotted}; {mark}.", draw)


def _operating_points(rows: Sequence[ScoredImage]) -> tuple[Point | None, Point | None]:
    """Where flagging put the images on both curves; None where nothing is flagged."""
    flags = flags_of(rows)
    if flags is None or flags.false_alarm_rate is None or flags.sensitivity is None:
        return None, None
    flagged = flags.normal_flagged + flags.abnormal_flagged
    precision = (flags.sensitivity, flags.abnormal_flagged / flagged) if flagged else None
    return (flags.false_alarm_rate, flags.sensitivity), precision


def _threshold_words(threshold: float | None) -> str:
    return "No calibrated threshold." if threshold is None else "Dashed line: calibrated threshold."


def _histogram(
    axes: Axes,
    theme: Theme,
    scores: NDArray[np.float64],
    abnormal: NDArray[np.bool_],
    threshold: float | None,
) -> None:
    low, high = float(scores.min()), float(scores.max())
    bins = int(np.clip(2 * np.sqrt(len(scores)), 10, 40))
    edges = np.histogram_bin_edges(scores, bins)
    if low > 0 and high / low > LOGARITHMIC_FROM:
        edges = np.geomspace(low, high, bins + 1)
        axes.set_xscale("log")
    kinds = (("normal", ~abnormal, theme.normal), ("abnormal", abnormal, theme.abnormal))
    for name, chosen, colour in kinds:
        if chosen.any():
            share = 100 * np.histogram(scores[chosen], edges)[0] / chosen.sum()
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(share, edges, color=colour, linewidth=1.4, label=name)
    if threshold is not None:
        axes.axvline(threshold, color=theme.ink, linestyle="--", linewidth=1.1)
    axes.set(xlabel="image score", ylabel="images of the class (%)")
    axes.legend(frameon=False, fontsize=8, labelcolor=theme.ink, handlelength=1.2)


def _sizes(axes: Axes, theme: Theme, by_size: Mapping[str, Stratum]) -> None:
    labels = [f"{name}\nn = {stratum.positives}" for name, stratum in by_size.items()]
    axes.set_xticks(range(len(labels)), labels)
    for at, stratum in enumerate(by_size.values()):
        estimate = stratum.metrics.get(SIZE_METRIC)
        if estimate is None or estimate.value is None:
            continue
        if estimate.low is not None and estimate.high is not None:
            bounds = [100 * estimate.low, 100 * estimate.high]
            axes.plot([at, at], bounds, color=theme.abnormal, linewidth=1.6, marker="_")
        axes.plot(at, 100 * estimate.value, "o", color=theme.abnormal, markersize=6, clip_on=False)
    axes.set(
        xlabel="lesion diameter (% of the image side)",
        ylabel="sensitivity at 95 % specificity (%)",
        xlim=(-0.5, len(labels) - 0.5),
        ylim=(-2, 102),
    )


def _chart(title: str, caption: str, draw: Draw, width: float = 3.5) -> Chart:
    """A chart `width` inches wide in both themes."""
    light, dark = (_png(draw, theme, width) for theme in (LIGHT, DARK))
    return Chart(title, caption, light, dark)


def _png(draw: Draw, theme: Theme, width: float) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.1), layout="constrained", facecolor=theme.paper)
    axes = figure.add_subplot()
    _prepare(axes, theme)
    draw(axes, theme)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=theme.ink, fontsize=9)
    return png_of(figure)


def png_of(figure: Figure) -> bytes:
    """The same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # without the version that matplotlib would write
    metadata: dict[str, Any] = {"Software": None}
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def _prepare(axes: Axes, theme: Theme) -> None:
    """The look of every chart, set by hand so that no matplotlibrc changes it."""
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.faint, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=theme.faint, labelcolor=theme.ink, labelsize=8, length=2.5)
    for side, spine in axes.spines.items():
        spine.set(color=theme.ink, linewidth=0.7, visible=side in ("left", "bottom"))
