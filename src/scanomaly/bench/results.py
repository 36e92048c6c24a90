"""A finished job in numbers: small JSON, written last, the mark of being done. Loads no torch.

Beside it, bootstrap draws of metrics over pixels and texts, for paired differences.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from scanomaly.errors import CheckpointError
from scanomaly.files import write_bytes, write_text
from scanomaly.metrics import Estimate, Stratum

RESULT_FORMAT = 1
"""Part of every job's digest: results of another format are computed again."""
RESULT_FILE, DRAWS_FILE = "result.json", "draws.npz"
FROM_SCORES = "image."
"""Metrics of this family follow from the scores."""


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
    folder: Path | None = field(default=None, compare=False)
    """Where it was read from."""

    def with_draws(self, metric: str) -> Estimate:
        """The metric with its bootstrap draws, if the job kept them. Raises CheckpointError."""
        estimate = self.metrics.get(metric, Estimate.undefined("not evaluated"))
        draws = None if self.folder is None else _read_draws(self.folder, metric)
        if draws is None and estimate.low is not None:
            why = f"no draws were kept; remove the runs' {RESULT_FILE} and run the table again"
            return replace(estimate, why=why)
        return replace(estimate, draws=draws)


def write_result(result: JobResult, folder: Path) -> Path:
    """Write draws.npz, then result.json into a job's folder, each whole or not at all.

    Draws are kept of the metrics that cannot be computed again from the scores. Raises DiskError.
    """
    draws = {
        name: estimate.draws.astype(np.float32)
        for name, estimate in result.metrics.items()
        if estimate.draws is not None and not name.startswith(FROM_SCORES)
    }
    if draws:
        content = io.BytesIO()
        np.savez_compressed(content, **draws)  # type: ignore[arg-type]
        write_bytes(folder / DRAWS_FILE, content.getvalue())
    values = {"format": RESULT_FORMAT, **asdict(result, dict_factory=_kept)}
    write_text(folder / RESULT_FILE, json.dumps(values, allow_nan=False) + "\n")
    return folder / RESULT_FILE


def _read_draws(folder: Path, metric: str) -> NDArray[np.floating[Any]] | None:
    """Those of a metric, if they were kept. Raises CheckpointError."""
    file = folder / DRAWS_FILE
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            draws: NDArray[np.floating[Any]] | None = kept.get(metric)
            return draws
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, TypeError, BadZipFile, zlib.error) as error:
        raise _damaged(folder, file, error) from error


def _kept(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if name not in ("draws", "folder")}


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
        return _result(values, folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, file, error) from error


def _damaged(folder: Path, file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} is damaged ({type(error).__name__}: {error}); remove {folder} and run the "
        "table again."
    )


def _result(values: dict[str, Any], folder: Path) -> JobResult:
    columns = ("ids", "patients", "labels", "scores", "weights", "notes")
    return JobResult(
        **{
            **values,
            **{name: tuple(values[name]) for name in columns},
            "metrics": _estimates(values["metrics"]),
            "honest": _estimates(values["honest"]),
            **{name: _strata(values.get(name, {})) for name in ("by_size", "by_kind")},
            "folder": folder,
        }
    )


def _strata(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Stratum]:
    return {
        name: Stratum(stratum["positives"], _estimates(stratum["metrics"]))
        for name, stratum in values.items()
    }


def _estimates(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    return {name: Estimate(**estimate) for name, estimate in values.items()}
