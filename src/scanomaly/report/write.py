"""The files of an evaluation, written one after the other, each atomically."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from scanomaly.errors import ScanomalyError
from scanomaly.files import write_text
from scanomaly.report.html import report_html
from scanomaly.report.markdown import report_markdown
from scanomaly.report.tables import metrics_json, predictions_csv

if TYPE_CHECKING:
    from scanomaly.evaluation import Evaluation

EXTRA = ("jinja2", "matplotlib")


class MissingExtraError(ScanomalyError, ImportError):
    """The libraries that draw report.html are not installed."""


def write_report(evaluation: Evaluation, folder: Path) -> Path:
    """Write metrics.json, predictions.csv, report.md and report.html; returns the last one's path.

    Raises DiskError, and MissingExtraError after the first three, which need no extra, are safe.
    """
    write_text(folder / "metrics.json", metrics_json(evaluation))
    write_text(folder / "predictions.csv", predictions_csv(evaluation.rows))
    write_text(folder / "report.md", report_markdown(evaluation))
    path = folder / "report.html"
    _require_extra(path)
    write_text(path, report_html(evaluation))
    return path


def _require_extra(path: Path) -> None:
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{path} needs {' and '.join(missing)}, not installed here: "
            'pip install "scanomaly[report]". '
            "metrics.json, predictions.csv and report.md are written."
        )
