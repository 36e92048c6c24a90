"""The numbers: metrics.json, predictions.csv, and how people read them."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from scanomaly.evaluation import Evaluation
from scanomaly.metrics import Estimate
from scanomaly.panels import ScoredImage
from scanomaly.report.html import report_html
from scanomaly.report.markdown import report_markdown
from scanomaly.report.tables import (
    Flags,
    count_words,
    flags_of,
    gap_lines,
    metric_lines,
    metrics_json,
    percent,
    predictions_csv,
    protocol_words,
)


def test_metrics_json_holds_every_number_of_the_evaluation(evaluation: Evaluation) -> None:
    content = json.loads(metrics_json(evaluation))

    assert content["format"] == 1
    assert (content["preset"], content["method"]) == ("qfae-offline", "qfae")
    assert (content["dataset"], content["protocol"]) == ("phantom", "honest")
    assert content["number_of_images"] == {"total": 80, "normal": 40, "abnormal": 40}
    assert list(content["image"]) == ["auroc", "ap", "sensitivity_at_95_specificity"]
    assert list(content["pixel"]) == ["auroc", "ap", "aupro_0.3", "dice_best"]
    for level in ("image", "pixel"):
        for name, estimate in getattr(evaluation, level).items():
            assert content[level][name] == estimate.as_dict()
    for breakdown in ("by_size", "by_kind"):
        for name, stratum in getattr(evaluation, breakdown).items():
            assert content[breakdown][name]["positives"] == stratum.positives
            assert content[breakdown][name]["auroc"] == stratum.metrics["auroc"].as_dict()
    assert set(content["by_kind"]) == {"cyst", "haemorrhage"}
    assert content["splits"] == evaluation.splits
    for field in ("pixel_grid", "threshold", "false_alarm_rate", "resampled", "seconds_per_image"):
        assert content[field] == getattr(evaluation, field)
    assert content["weights"] == list(evaluation.weights)
    assert content["notes"] == list(evaluation.notes)


def test_metrics_json_says_why_a_metric_is_undefined(variant: Callable[..., Evaluation]) -> None:
    bare = variant(pixel={"auroc": Estimate.undefined("no masks")}, by_size={}, threshold=None)
    content = json.loads(metrics_json(bare))
    assert content["pixel"] == {"auroc": {"value": None, "why": "no masks"}}
    assert content["by_size"] == {}
    assert content["threshold"] is None


def test_predictions_csv_brings_scores_back_exactly(evaluation: Evaluation) -> None:
    text = predictions_csv(evaluation.rows)
    assert text.splitlines()[0] == "id,patient,label,score,p_value,flagged"
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["id"] for line in lines] == [row.id for row in evaluation.rows]
    for line, row in zip(lines, evaluation.rows, strict=True):
        assert np.float32(line["score"]) == np.float32(row.score)
        assert float(line["p_value"]) == pytest.approx(row.p_value, rel=1e-8)
        assert (line["label"], line["flagged"]) == (str(int(row.label)), str(int(row.flagged)))


def test_predictions_csv_leaves_empty_what_is_unknown() -> None:
    rows = [
        ScoredImage("a", None, None, 0.5, None, None),
        ScoredImage('b,"c', "p", True, 1e-9, 0.25, False),
    ]
    assert predictions_csv(rows).splitlines()[1:] == ["a,,,0.5,,", '"b,""c",p,1,1e-09,0.25,0']


def test_flags_count_by_truth_and_ignore_images_without_label(evaluation: Evaluation) -> None:
    unlabelled = ScoredImage("x", None, None, 9.0, 0.01, True)
    flags = flags_of([*evaluation.rows, unlabelled])
    expected = {
        label: sum(row.flagged is True for row in evaluation.rows if row.label is label)
        for label in (False, True)
    }
    assert flags == Flags(expected[False], 40, expected[True], 40)
    assert flags.sensitivity == expected[True] / 40
    assert flags.false_alarm_rate == expected[False] / 40


def test_flags_without_calibration_or_without_a_class(evaluation: Evaluation) -> None:
    assert flags_of(replace(row, flagged=None) for row in evaluation.rows) is None
    normals = flags_of(row for row in evaluation.rows if not row.label)
    assert normals is not None
    assert normals.sensitivity is None


def test_percent_has_one_decimal() -> None:
    assert [percent(share) for share in (0.91349, 1.0, 0.0, None)] == ["91.3", "100.0", "0.0", ""]


def test_metric_lines_name_the_metric_and_what_is_missing() -> None:
    exact, lost, alone, none = metric_lines(
        {
            "auroc": Estimate(0.9, 0.85, 0.95, repeats=1000),
            "ap": Estimate(0.9, 0.85, 0.95, repeats=1000, dropped=7),
            "dice_best": Estimate(0.5, why="one patient only"),
            "aupro_0.3": Estimate.undefined("undefined: this data set has no masks"),
        }
    )
    assert (exact.name, exact.value, exact.low, exact.high) == ("AUROC", "90.0", "85.0", "95.0")
    assert exact.remark == ""
    assert "7 of 1000" in lost.remark
    assert (alone.value, alone.low, alone.remark) == ("50.0", "", "one patient only")
    assert (none.value, none.remark) == ("", "this data set has no masks")


def test_images_and_patients_in_words(evaluation: Evaluation) -> None:
    rows = evaluation.rows
    assert count_words(rows) == "80 (40 normal, 40 abnormal) of 40 patients"
    unknown = [replace(row, patient=None) for row in rows]
    assert count_words(unknown) == "80 (40 normal, 40 abnormal)"


def test_protocol_of_the_fit_is_named_where_it_differs(variant: Callable[..., Evaluation]) -> None:
    assert protocol_words(variant()) == "honest"
    assert protocol_words(variant(protocol="paper")).endswith("fitted with the protocol honest")


def test_a_published_protocol_stands_beside_the_honest_one_with_the_gap(
    variant: Callable[..., Evaluation],
) -> None:
    honest = variant(image={"auroc": Estimate(0.8, 0.7, 0.9), "ap": Estimate.undefined("none")})
    paper = variant(
        protocol="paper",
        image={"auroc": Estimate(0.95, 0.9, 1.0), "ap": Estimate(0.5, 0.4, 0.6)},
        pixel={},
        honest=replace(honest, pixel={}),
    )
    assert gap_lines(paper) == [
        ("Image: AUROC", "95.0", "80.0", "+15.0"),
        ("Image: Average precision", "50.0", "", ""),
    ]
    assert gap_lines(honest) == []
    assert json.loads(metrics_json(paper))["honest"]["image"]["auroc"]["value"] == 0.8
    assert "| Image: AUROC | 95.0 | 80.0 | +15.0 |" in report_markdown(paper)
    assert "As published" not in report_markdown(honest)
    html = report_html(paper)
    assert "What the published protocol adds" in html
    assert "+15.0" in html
    assert "What the published protocol adds" not in report_html(honest)
