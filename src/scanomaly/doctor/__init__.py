"""What is wrong with a data folder, before any run: `examine`. Loads no torch."""

from scanomaly.doctor.checks import CHECKS, CHECKS_ACROSS
from scanomaly.doctor.examination import examine
from scanomaly.doctor.findings import Diagnosis, Examined, Finding, Severity, write_json

__all__ = [
    "CHECKS",
    "CHECKS_ACROSS",
    "Diagnosis",
    "Examined",
    "Finding",
    "Severity",
    "examine",
    "write_json",
]
