"""The files of an evaluation, written one after the other, each atomically."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scanomaly.files import write_text
from scanomaly.report.html import report_html
from scanomaly.report.markdown import report_markdown
from scanomaly.report.page import require_extra
from scanomaly.report.tables import metrics_json, predictions_csv

if TYPE_CHECKING:
    from scanomaly.evaluation import Evaluation


def write_report(evaluation: Evaluation, folder: Path) -> Path:
    """Write metrics.json, predictions.csv, report.md and report.html; returns the last one's path.

    Raises DiskError, and MissingExtraError after the first three, which need no extra, are safe.
    """
    write_text(folder / "metrics.json", metrics_json(evaluation))
    write_text(folder / "predictions.csv", predictions_csv(evaluation.rows))
    write_text(folder / "report.md", report_markdown(evaluation))
    path = folder / "report.html"
    require_extra(path, "metrics.json, predictions.csv and report.md")
    write_text(path, report_html(evaluation))
    return path
