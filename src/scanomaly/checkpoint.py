"""Run folders: a fitted detector on disk, without the backbones' weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scanomaly import __version__
from scanomaly.calibration import FORMAT as CALIBRATION_FORMAT
from scanomaly.calibration import Calibration
from scanomaly.config.run import Run, load_run
from scanomaly.errors import CheckpointError
from scanomaly.files import write_file, write_text
from scanomaly.methods import METHODS, Detector

logger = logging.getLogger(__name__)

MODEL_FORMAT = 1
TRAINING_FORMAT = 1
MODEL_FILE = "model.safetensors"
CALIBRATION_FILE = "calibration.json"
TRAINING_FILE = "training.json"


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What made the weights; written beside them as training.json."""

    trained_on: str
    checkpoint: str
    """Which epoch was kept, and what chose it."""
    calibrated_on: str
    warm_start: str
    steps: int = 0
    seconds: float = 0.0
    train_loss: tuple[float, ...] = ()
    validation_loss: tuple[float, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: int = TRAINING_FORMAT


def save_detector(detector: Detector, run: Run, folder: Path) -> None:
    """Write run.yaml and model.safetensors. Raises DiskError, leaving what was there."""
    state = {name: tensor.contiguous() for name, tensor in detector.fitted_state().items()}
    metadata = {
        "format": str(MODEL_FORMAT),
        "method": run.method,
        "scanomaly": __version__,
        "torch": torch.__version__,
        "backbones": json.dumps(sorted({network.fingerprint() for network in detector.frozen()})),
    }
    content = safetensors.torch.save(state, metadata)
    write_file(folder / MODEL_FILE, lambda file: file.write_bytes(content))
    run.save(folder)


def save_calibration(calibration: Calibration, folder: Path) -> None:
    write_text(folder / CALIBRATION_FILE, calibration.to_json())


def save_training(record: TrainingRecord, folder: Path) -> None:
    write_text(folder / TRAINING_FILE, json.dumps(asdict(record), indent=1))


def load_detector(folder: Path) -> tuple[Detector, Run]:
    """Build the run's detector and fill in its fitted tensors, in fp32 on the CPU.

    Raises CheckpointError for a folder without a run, another method's or a newer or damaged
    file, and for pretrained weights other than those it was fitted with.
    """
    run = load_run(folder)
    file = folder / MODEL_FILE
    state, metadata = read_state(file)
    if metadata.get("method") != run.method:
        raise CheckpointError(
            f"{file} holds a {metadata.get('method')} and {folder / 'run.yaml'} describes a "
            f"{run.method}; give each run a folder of its own."
        )
    detector = METHODS[run.method].build(run.config)
    fill(detector, state, file)
    _check_backbones(detector, metadata, file)
    return detector.eval(), run


def read_state(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a model file. Raises CheckpointError."""
    if not file.is_file():
        raise CheckpointError(
            f"{file} is missing: the run was not finished; `scanomaly fit ... --resume` goes on."
        )
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); restore it or fit again.") from error
    _refuse_newer(file, metadata.get("format", "0"), MODEL_FORMAT)
    return state, metadata


def _refuse_newer(file: Path, found: object, known: int) -> None:
    if not str(found).isdigit() or int(str(found)) > known:
        raise CheckpointError(
            f"{file} has format {found} and this Scanomaly reads up to {known}; "
            "upgrade with `pip install -U scanomaly`."
        )


def fill(detector: Detector, state: Mapping[str, Tensor], file: Path) -> None:
    """Copy fitted tensors into a detector. Raises CheckpointError naming what does not fit."""
    detector.make_room(state)
    own = detector.fitted_state()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {tuple(own[name].shape)} but got {tuple(state[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{file} does not fit this detector: "
            f"missing {missing[:3] or 'nothing'}, unexpected {unexpected[:3] or 'nothing'}, "
            f"other shapes {shapes[:3] or 'none'}; load it with the configuration it was made with."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _check_backbones(detector: Detector, metadata: Mapping[str, str], file: Path) -> None:
    expected = json.loads(metadata.get("backbones", "[]"))
    found = sorted({network.fingerprint() for network in detector.frozen()})
    if expected and expected != found:
        raise CheckpointError(
            f"{file} was fitted with pretrained weights {', '.join(expected)} and those found here "
            f"are {', '.join(found)}; `scanomaly weights verify` tells which file changed."
        )


def load_calibration(folder: Path) -> Calibration | None:
    """The saved calibration, or None where there is none. Raises CheckpointError."""
    values = _read_json(folder / CALIBRATION_FILE, CALIBRATION_FORMAT)
    if values is None:
        return None
    try:
        return Calibration.from_json(json.dumps(values))
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder / CALIBRATION_FILE} is damaged ({error}); restore it or fit again."
        ) from error


def load_training(folder: Path) -> TrainingRecord | None:
    """The training record, or None where there is none. Raises CheckpointError."""
    values = _read_json(folder / TRAINING_FILE, TRAINING_FORMAT)
    if values is None:
        return None
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    try:
        return TrainingRecord(**{**values, **lists})
    except TypeError as error:
        raise CheckpointError(
            f"{folder / TRAINING_FILE} is damaged ({error}); restore it or fit again."
        ) from error


def _read_json(file: Path, known: int) -> dict[str, Any] | None:
    """The fields of a file, of which `known` is the newest format; None where there is none."""
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); restore it or fit again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is damaged (it holds no fields); restore it or fit again.")
    _refuse_newer(file, values.get("format", 0), known)
    return values
