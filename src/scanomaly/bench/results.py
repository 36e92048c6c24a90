"""A finished job in numbers: small JSON, written last, the mark of being done. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scanomaly.errors import CheckpointError
from scanomaly.files import write_text
from scanomaly.metrics import Estimate, Stratum

RESULT_FORMAT = 1
"""Part of every job's digest: results of another format are computed again."""
RESULT_FILE = "result.json"


@dataclass(frozen=True, slots=True)
class JobResult:
    """What the tables and the paired statistics need of one job, and nothing else.

    ids, patients, labels, scores: columns of equal length, in the order of the test images. Of an
    answerer: one line for each closed question, labels None, scores 1 for a right answer, else 0.
    """

    experiment: Mapping[str, Any]
    """The resolved Run or VqaRun, as in job.json."""
    dataset: str
    protocol: str
    seed: int
    metrics: Mapping[str, Estimate]
    """"image.auroc", "pixel.auroc", ...; of an answerer "closed.accuracy", "open.bleu_4",
    "gain.class_accuracy", "nli.MODEL.entailment", "open_set.known.CLASS.f1", ..."""
    honest: Mapping[str, Estimate] = field(default_factory=dict)
    """Beside a published protocol: the same training scored honestly, at its last epoch; else
    empty."""
    ids: tuple[str, ...] = ()
    patients: tuple[str | None, ...] = ()
    labels: tuple[bool | None, ...] = ()
    scores: tuple[float, ...] = ()
    by_size: Mapping[str, Stratum] = field(default_factory=dict)
    by_kind: Mapping[str, Stratum] = field(default_factory=dict)
    seconds: float = 0.0
    """Of fit and evaluation together, in the process that finished the job."""
    weights: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def write_result(result: JobResult, folder: Path) -> Path:
    """Write result.json into a job's folder, whole or not at all. Raises DiskError."""
    text = json.dumps({"format": RESULT_FORMAT, **asdict(result)}, allow_nan=False)
    write_text(folder / RESULT_FILE, text + "\n")
    return folder / RESULT_FILE


def has_result(folder: Path) -> bool:
    """Whether a job's folder holds a finished job."""
    return (folder / RESULT_FILE).is_file()


def read_result(folder: Path) -> JobResult | None:
    """The result in a job's folder; None before it is finished. Raises CheckpointError."""
    file = folder / RESULT_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("format") != RESULT_FORMAT:
            return None
        return _result(values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}); remove {folder} and run the "
            "table again."
        ) from error


def _result(values: dict[str, Any]) -> JobResult:
    columns = ("ids", "patients", "labels", "scores", "weights", "notes")
    return JobResult(
        **{
            **values,
            **{name: tuple(values[name]) for name in columns},
            "metrics": _estimates(values["metrics"]),
            "honest": _estimates(values["honest"]),
            **{name: _strata(values.get(name, {})) for name in ("by_size", "by_kind")},
        }
    )


def _strata(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Stratum]:
    return {
        name: Stratum(stratum["positives"], _estimates(stratum["metrics"]))
        for name, stratum in values.items()
    }


def _estimates(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    return {name: Estimate(**estimate) for name, estimate in values.items()}
