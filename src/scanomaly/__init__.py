"""Scanomaly: find, show and explain anomalies in medical images. Importing it loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scanomaly.config.run import Run
    from scanomaly.data.manifest import Manifest, Row, read_manifest
    from scanomaly.errors import ScanomalyError
    from scanomaly.evaluation import Evaluation, evaluate
    from scanomaly.inference import Finding, FittedDetector, load
    from scanomaly.presets import preset
    from scanomaly.records import Batch, Features, Prediction

_HOMES = {
    "Batch": "scanomaly.records",
    "Evaluation": "scanomaly.evaluation",
    "Features": "scanomaly.records",
    "Finding": "scanomaly.inference",
    "FittedDetector": "scanomaly.inference",
    "Manifest": "scanomaly.data.manifest",
    "Prediction": "scanomaly.records",
    "Row": "scanomaly.data.manifest",
    "Run": "scanomaly.config.run",
    "ScanomalyError": "scanomaly.errors",
    "evaluate": "scanomaly.evaluation",
    "load": "scanomaly.inference",
    "preset": "scanomaly.presets",
    "read_manifest": "scanomaly.data.manifest",
}

__all__ = [
    "Batch",
    "Evaluation",
    "Features",
    "Finding",
    "FittedDetector",
    "Manifest",
    "Prediction",
    "Row",
    "Run",
    "ScanomalyError",
    "__version__",
    "evaluate",
    "load",
    "preset",
    "read_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scanomaly' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
