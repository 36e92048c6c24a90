"""Evaluation -> metrics.json, predictions.csv, report.md and report.html. Loads no torch."""

from scanomaly.report.page import MissingExtraError
from scanomaly.report.tables import predictions_csv
from scanomaly.report.write import write_report

__all__ = ["MissingExtraError", "predictions_csv", "write_report"]
