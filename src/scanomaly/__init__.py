"""Scanomaly: find, show and explain anomalies in medical images. Importing it loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scanomaly.asking import Asked, ask, load_answerer
    from scanomaly.config.run import Run
    from scanomaly.data.manifest import Manifest, Row, read_manifest
    from scanomaly.errors import ScanomalyError
    from scanomaly.evaluation import Evaluation, evaluate
    from scanomaly.inference import Finding, FittedDetector, load
    from scanomaly.presets import preset
    from scanomaly.questions import Answer, Question
    from scanomaly.records import Batch, Features, Prediction, Triple

_HOMES = {
    "Answer": "scanomaly.questions",
    "Asked": "scanomaly.asking",
    "Batch": "scanomaly.records",
    "Evaluation": "scanomaly.evaluation",
    "Features": "scanomaly.records",
    "Finding": "scanomaly.inference",
    "FittedDetector": "scanomaly.inference",
    "Manifest": "scanomaly.data.manifest",
    "Prediction": "scanomaly.records",
    "Question": "scanomaly.questions",
    "Row": "scanomaly.data.manifest",
    "Run": "scanomaly.config.run",
    "ScanomalyError": "scanomaly.errors",
    "Triple": "scanomaly.records",
    "ask": "scanomaly.asking",
    "evaluate": "scanomaly.evaluation",
    "load": "scanomaly.inference",
    "load_answerer": "scanomaly.asking",
    "preset": "scanomaly.presets",
    "read_manifest": "scanomaly.data.manifest",
}

__all__ = [
    "Answer",
    "Asked",
    "Batch",
    "Evaluation",
    "Features",
    "Finding",
    "FittedDetector",
    "Manifest",
    "Prediction",
    "Question",
    "Row",
    "Run",
    "ScanomalyError",
    "Triple",
    "__version__",
    "ask",
    "evaluate",
    "load",
    "load_answerer",
    "preset",
    "read_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scanomaly' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
