"""Evaluation -> one HTML page that holds its pictures and asks for nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scanomaly.report.figures import Chart, curve_charts, size_chart
from scanomaly.report.page import duration, render
from scanomaly.report.parts import Branch, branches_of
from scanomaly.report.pictures import COLUMNS, TRUTH, colour_bar, columns_of, encoded
from scanomaly.report.tables import (
    DISCLAIMER,
    MetricLine,
    count_words,
    flags_of,
    gap_lines,
    metric_lines,
    protocol_words,
)

if TYPE_CHECKING:
    from scanomaly.evaluation import Evaluation
    from scanomaly.metrics import Stratum
    from scanomaly.panels import Panel

TEMPLATE = "detector.html.j2"

KIND_WORDS: Mapping[str, tuple[str, str]] = {
    "hit": ("Hits", "abnormal and flagged, highest scores first"),
    "miss": ("Misses", "abnormal and not flagged, lowest scores first"),
    "false alarm": ("False alarms", "normal and flagged, highest scores first"),
    "correct rejection": ("Correct rejections", "normal and not flagged, lowest scores first"),
}
"""Kind of panel -> heading, what it holds."""


@dataclass(frozen=True, slots=True)
class StratumLine:
    """One lesion size or kind of anomaly: how many images, and its metrics."""

    name: str
    positives: int
    metrics: Sequence[MetricLine]


@dataclass(frozen=True, slots=True)
class PanelView:
    """One image: its line of predictions.csv in words, and a data URI per column of its group.

    branches: what the method's parts say of it, where it has parts.
    """

    id: str
    patient: str
    score: str
    p_value: str
    pictures: Mapping[str, str | None]
    branches: Sequence[Branch]


@dataclass(frozen=True, slots=True)
class PanelGroup:
    """The panels of one kind. widest: pixels of the report's widest picture."""

    title: str
    meaning: str
    columns: Sequence[str]
    widest: int
    panels: Sequence[PanelView]


def report_html(evaluation: Evaluation) -> str:
    """The text of report.html. Needs jinja2 and matplotlib."""
    return render(TEMPLATE, _context(evaluation))


def _context(evaluation: Evaluation) -> dict[str, object]:
    """Everything that the template names."""
    groups = _panel_groups(evaluation.panels)
    return {
        "evaluation": evaluation,
        "disclaimer": DISCLAIMER,
        "facts": _facts(evaluation),
        "levels": [
            ("Image level: is the image abnormal?", metric_lines(evaluation.image)),
            (
                f"Pixel level: where? (grid: {evaluation.pixel_grid})",
                metric_lines(evaluation.pixel),
            ),
        ],
        "gaps": gap_lines(evaluation),
        "flags": flags_of(evaluation.rows),
        "curves": curve_charts(evaluation),
        "size_chart": _drawn(size_chart(evaluation.by_size)),
        "sizes": _stratum_lines(evaluation.by_size),
        "kinds": _stratum_lines(evaluation.by_kind),
        "groups": groups,
        "outlined": any(TRUTH in group.columns for group in groups),
        "parted": any(panel.part_maps for panel in evaluation.panels),
        "colour_bar": colour_bar() if groups else "",
        "seconds": duration(evaluation.seconds_per_image),
        "commands": _commands(evaluation),
        "singles": "scores in predictions.csv",
    }


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    run = evaluation.run
    return [
        ("Data set", evaluation.dataset),
        ("Preset", f"{run.preset} (method {run.method})"),
        ("Source", run.source),
        ("Protocol", protocol_words(evaluation)),
        ("Scored images", count_words(evaluation.rows)),
        ("Seed", str(run.fit.seed)),
    ]


def _drawn(chart: Chart | None) -> list[Chart]:
    return [] if chart is None else [chart]


def _stratum_lines(strata: Mapping[str, Stratum]) -> list[StratumLine]:
    return [
        StratumLine(name, stratum.positives, metric_lines(stratum.metrics))
        for name, stratum in strata.items()
    ]


def _panel_groups(panels: Sequence[Panel]) -> list[PanelGroup]:
    """Panels by kind, in order of appearance, each group with the columns that it needs."""
    drawn = [columns_of(panel) for panel in panels]
    shown = [one for row in drawn for one in row.values() if one is not None]
    uris = iter(encoded(shown))
    widest = max((one.shape[1] for one in shown), default=0)
    pictures = [
        {name: None if one is None else next(uris) for name, one in row.items()} for row in drawn
    ]
    views = [
        _panel_view(panel, row, branches)
        for panel, row, branches in zip(panels, pictures, branches_of(panels), strict=True)
    ]
    return [
        _panel_group(
            kind, widest, [v for v, p in zip(views, panels, strict=True) if p.kind == kind]
        )
        for kind in dict.fromkeys(panel.kind for panel in panels)
    ]


def _panel_view(
    panel: Panel, pictures: Mapping[str, str | None], branches: Sequence[Branch]
) -> PanelView:
    scored = panel.scored
    return PanelView(
        id=scored.id,
        patient="" if (scored.patient or "") in scored.id else str(scored.patient),
        score=f"{scored.score:.4g}",
        p_value="" if scored.p_value is None else f"{scored.p_value:.3f}",
        pictures=pictures,
        branches=branches,
    )


def _panel_group(kind: str, widest: int, views: Sequence[PanelView]) -> PanelGroup:
    title, meaning = KIND_WORDS.get(kind, (kind, ""))
    columns = [name for name in COLUMNS if any(view.pictures[name] for view in views)]
    return PanelGroup(title, meaning, columns, widest, views)


def _commands(evaluation: Evaluation) -> list[str]:
    options = f" --protocol {evaluation.protocol}"
    if evaluation.pixel_grid.startswith("native"):
        options += " --pixel-grid native"
    return [
        "scanomaly fit --config run.yaml --data DATA --out RUN",
        f"scanomaly evaluate RUN --data DATA{options}",
    ]
