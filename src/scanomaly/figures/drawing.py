"""Projected clouds -> a PNG: one panel a place, colours for labels, markers for series."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scanomaly.report.figures import LIGHT, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scanomaly.figures.clouds import Cloud

PANEL, GAP, LEFT, RIGHT, TOP, LEGEND, LINE = 2.1, 0.12, 0.32, 0.1, 0.56, 0.36, 0.125
"""Inches: side of a panel, between panels, round them, of the legend, of a line of the caption."""
CHARACTERS_PER_INCH = 19
"""Of the caption."""
MARGIN = 0.12
"""Round the points of a panel, as a share of their extent."""
LEAST_WIDTH = 4.6
MARKERS = ("o", "s", "^", "D", "v", "P")
COLOURS = {False: LIGHT.normal, True: LIGHT.abnormal}
SERIES = "#6d767f"
"""In the legend: a series has a marker and no colour of its own."""
LABELS = {False: "normal", True: "abnormal"}


@dataclass(frozen=True)
class Projected:
    """A cloud and where its points lie, (N, 2). taught: bool (N,), images that were trained on."""

    cloud: Cloud
    places: NDArray[np.float64]
    taught: NDArray[np.bool_]


def draw(panels: Sequence[Projected], title: str, caption: str, point: str = "image") -> bytes:
    """The PNG of one figure; rows and columns in order of appearance. point: what each one is."""
    rows = list(dict.fromkeys(panel.cloud.row for panel in panels))
    columns = list(dict.fromkeys(panel.cloud.column for panel in panels))
    width = max(LEAST_WIDTH, LEFT + RIGHT + len(columns) * (PANEL + GAP) - GAP)
    lines = textwrap.wrap(caption, int(width * CHARACTERS_PER_INCH))
    figure, grid = _empty(len(rows), len(columns), width, LEGEND + LINE * (len(lines) + 1))
    series = list(dict.fromkeys(name for panel in panels for name in panel.cloud.series))
    markers = dict(zip(series, MARKERS * len(series), strict=False))
    named: set[str] = set()
    for panel in sorted(panels, key=lambda one: columns.index(one.cloud.column)):
        row, column = panel.cloud.row, panel.cloud.column
        axes = grid[rows.index(row), columns.index(column)]
        _scatter(axes, panel, markers)
        axes.set_title("" if column in named else column, fontsize=8.5, color=LIGHT.ink)
        axes.set_ylabel("" if row in named else row, fontsize=8.5, color=LIGHT.ink)
        named |= {row, column}
    height = figure.get_figheight()
    figure.suptitle(title, y=1 - 0.08 / height, va="top", fontsize=9.5, color=LIGHT.ink)
    handles = _handles(panels, markers, point)
    _add_legend(figure, handles, LINE * (len(lines) + 1) / height)
    figure.supxlabel("\n".join(lines), y=0.06 / height, va="bottom", fontsize=6.5, color=LIGHT.ink)
    return png_of(figure)


def _empty(rows: int, columns: int, width: float, bottom: float) -> tuple[Figure, Any]:
    """A figure and its axes (rows, columns), all hidden; sizes in inches."""
    from matplotlib.figure import Figure

    height = TOP + bottom + rows * (PANEL + GAP) - GAP
    figure = Figure(figsize=(width, height), facecolor=LIGHT.paper)
    used = LEFT + columns * (PANEL + GAP) - GAP
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": LEFT / width,
            "right": used / width,
            "bottom": bottom / height,
            "top": 1 - TOP / height,
            "wspace": GAP / PANEL,
            "hspace": GAP / PANEL,
        },
    )
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def _scatter(axes: Axes, panel: Projected, markers: Mapping[str, str]) -> None:
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=LIGHT.faint, linewidth=0.8)
    series = np.array(panel.cloud.series)
    order = np.random.default_rng(0).permutation(len(series))  # no class hides the other
    for name, marker in markers.items():
        for taught in (False, True):
            chosen = order[(series == name)[order] & (panel.taught == taught)[order]]
            if len(chosen):
                x, y = panel.places[chosen].T
                axes.scatter(
                    x,
                    y,
                    c=[COLOURS[bool(label)] for label in panel.cloud.label[chosen]],
                    **_look(marker, taught),
                )
    _square(axes, panel.places)


def _look(marker: str, taught: bool) -> dict[str, Any]:
    ring = {"edgecolors": LIGHT.ink, "linewidths": 0.9}
    plain = {"edgecolors": LIGHT.paper, "linewidths": 0.3}
    return {"s": 16, "alpha": 0.85, "marker": marker, **(ring if taught else plain)}


def _square(axes: Axes, places: NDArray[np.float64]) -> None:
    """Equal scales in a square box."""
    low, high = places.min(axis=0), places.max(axis=0)
    middle = (low + high) / 2
    half = max(float((high - low).max()) / 2, 1e-3) * (1 + 2 * MARGIN)
    axes.set(
        xlim=(middle[0] - half, middle[0] + half),
        ylim=(middle[1] - half, middle[1] + half),
        box_aspect=1,
    )


def _add_legend(figure: Figure, handles: Sequence[Any], bottom: float) -> None:
    """One line above `bottom`, a share of the height."""
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, bottom),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        labelcolor=LIGHT.ink,
        handletextpad=0.2,
        columnspacing=1.2,
        borderpad=0,
        borderaxespad=0,
    )


def _handles(panels: Sequence[Projected], markers: Mapping[str, str], point: str) -> list[Any]:
    """Labels, series where there are several, and rings."""
    from matplotlib.lines import Line2D

    found = {bool(label) for panel in panels for label in panel.cloud.label}

    def handle(label: str, marker: str, face: str, edge: str) -> Any:
        look: dict[str, Any] = {"markersize": 4.5, "markeredgecolor": edge, "markeredgewidth": 0.9}
        return Line2D([], [], linestyle="", label=label, marker=marker, color=face, **look)

    handles = [
        handle(f"{LABELS[one]} {point}", "o", COLOURS[one], COLOURS[one]) for one in sorted(found)
    ]
    if len(markers) > 1:
        handles += [handle(name, mark, LIGHT.paper, SERIES) for name, mark in markers.items()]
    if any(panel.taught.any() for panel in panels):
        handles.append(handle("trained on", "o", LIGHT.paper, LIGHT.ink))
    return handles
