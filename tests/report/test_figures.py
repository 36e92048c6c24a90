"""The charts: drawn in both themes, from the right numbers, without pyplot."""

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from scanomaly.evaluation import Evaluation
from scanomaly.metrics import Estimate, Stratum
from scanomaly.report.figures import (
    DARK,
    LIGHT,
    _histogram,
    _operating_points,
    _sizes,
    curve_charts,
    size_chart,
)


def corner(png: bytes) -> str:
    pixel = Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return "#" + "".join(f"{channel:02x}" for channel in pixel)


@pytest.fixture
def axes() -> Axes:
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def test_charts_come_in_both_themes(evaluation: Evaluation) -> None:
    charts = [*curve_charts(evaluation), size_chart(evaluation.by_size)]
    assert len(charts) == 4
    for chart in charts:
        assert chart is not None
        assert chart.why == ""
        assert corner(chart.light) == LIGHT.paper
        assert corner(chart.dark) == DARK.paper


def test_charts_are_the_same_every_time(evaluation: Evaluation) -> None:
    assert curve_charts(evaluation) == curve_charts(evaluation)


def test_one_class_has_a_reason_instead_of_curves(
    evaluation: Evaluation, variant: Callable[..., Evaluation]
) -> None:
    normals = tuple(row for row in evaluation.rows if not row.label)
    roc, precision_recall, histogram = curve_charts(variant(rows=normals))
    assert roc.why == precision_recall.why
    assert "40 normal, 0 abnormal" in roc.why
    assert roc.light == b""
    assert histogram.light


def test_operating_point_is_where_the_flags_are(evaluation: Evaluation) -> None:
    rows = evaluation.rows
    on_roc, on_precision_recall = _operating_points(rows)
    true = sum(bool(row.flagged and row.label) for row in rows)
    false = sum(bool(row.flagged and not row.label) for row in rows)
    assert on_roc == (false / 40, true / 40)
    assert on_precision_recall == (true / 40, true / (true + false))

    nothing = [replace(row, flagged=False) for row in rows]
    assert _operating_points(nothing) == ((0.0, 0.0), None)
    uncalibrated = [replace(row, flagged=None) for row in rows]
    assert _operating_points(uncalibrated) == (None, None)
    assert _operating_points([row for row in rows if row.label]) == (None, None)


def test_captions_do_not_promise_a_threshold_that_is_not_there(
    evaluation: Evaluation, variant: Callable[..., Evaluation]
) -> None:
    rows = tuple(replace(row, flagged=None, p_value=None) for row in evaluation.rows)
    for chart in curve_charts(variant(rows=rows, threshold=None, false_alarm_rate=None)):
        assert "no calibrated threshold" in chart.caption.lower()


def test_histogram_shows_the_share_of_each_class(axes: Axes) -> None:
    scores = np.array([0.0, 0.1, 0.9, 1.0, 1.0])
    _histogram(axes, LIGHT, scores, np.array([0, 0, 1, 1, 1], bool), 0.5)
    heights = {
        patch.get_label(): patch.get_data().values for patch in axes.patches if not patch.get_fill()
    }
    assert {name: values.sum() for name, values in heights.items()} == {
        "normal": pytest.approx(100),
        "abnormal": pytest.approx(100),
    }
    assert axes.get_lines()[0].get_xdata()[0] == 0.5
    assert axes.get_xscale() == "linear"


@pytest.mark.parametrize(
    ("scores", "scale"),
    [([0.001, 0.01, 1.0], "log"), ([0.0, 1.0], "linear"), ([2.0, 2.0], "linear")],
)
def test_histogram_axis_follows_the_range(axes: Axes, scores: list[float], scale: str) -> None:
    _histogram(axes, LIGHT, np.array(scores), np.zeros(len(scores), bool), None)
    assert axes.get_xscale() == scale


def test_size_chart_shows_intervals_and_skips_empty_sizes(axes: Axes) -> None:
    name = "sensitivity_at_95_specificity"
    by_size = {
        "0-5": Stratum(3, {name: Estimate(0.5, 0.25, 0.75)}),
        "5-10": Stratum(0, {name: Estimate.undefined("none")}),
        "10-20": Stratum(1, {name: Estimate(1.0, why="one patient")}),
    }
    _sizes(axes, LIGHT, by_size)
    interval, first, last = axes.get_lines()
    assert list(interval.get_ydata()) == [25, 75]
    assert (list(first.get_xdata()), list(first.get_ydata())) == ([0], [50])
    assert (list(last.get_xdata()), list(last.get_ydata())) == ([2], [100])
    assert [label.get_text() for label in axes.get_xticklabels()][1] == "5-10\nn = 0"


def test_no_sizes_no_chart() -> None:
    assert size_chart({}) is None


def test_report_imports_no_heavy_library() -> None:
    code = (
        "import sys, scanomaly.report; "
        "print([m for m in ('torch', 'matplotlib', 'jinja2') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
