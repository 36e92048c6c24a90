"""What every run folder holds, a detector's or an answerer's: weights, training record, owner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scanomaly import __version__
from scanomaly.config.experiment import MODEL_FILE, RUN_FILE, Experiment
from scanomaly.errors import CheckpointError, FitError
from scanomaly.files import write_file, write_text

MODEL_FORMAT = 1
TRAINING_FORMAT = 1
TRAINING_FILE = "training.json"
LAST_EPOCH = "last-epoch"
"""Inside the run folder of an epoch that a criterion chose: that of the last one."""


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What made the weights; written beside them as training.json."""

    trained_on: str
    checkpoint: str
    """Which epoch was kept, and what chose it."""
    calibrated_on: str = ""
    warm_start: str = ""
    """Both empty for an answerer, which has neither."""
    steps: int = 0
    seconds: float = 0.0
    train_loss: tuple[float, ...] = ()
    validation_loss: tuple[float, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: int = TRAINING_FORMAT

    @property
    def splits(self) -> dict[str, str]:
        """What each split did, in words, for reports."""
        roles = {
            "trained": self.trained_on,
            "chose the checkpoint": self.checkpoint,
            "calibrated": self.calibrated_on,
            "warm start": self.warm_start,
        }
        return {role: what for role, what in roles.items() if what}


def claim(out: Path, run: Experiment, resume: bool) -> None:
    """Make the folder this run's. Raises FitError when another run is in it.

    One that was refused before its first step left nothing to go on with, and is replaced.
    """
    if (out / RUN_FILE).exists():
        if not resume and _has_begun(out):
            raise FitError(
                f"{out} already holds a run; add --resume to go on with it, or give another folder."
            )
        if resume and _has_progress(out) and type(run).load(out) != run:
            raise FitError(
                f"{out} holds a run with other options; resume with the options it was started "
                "with (--config run.yaml), or give another folder."
            )
    elif out.is_dir() and any(out.iterdir()):
        raise FitError(f"{out} holds other files; give a new or empty folder.")


def _has_begun(out: Path) -> bool:
    """Whether a step was ever made: before it the loop opens its logs."""
    return (out / "logs").exists() or _has_progress(out)


def _has_progress(out: Path) -> bool:
    """Whether an epoch was ever finished; before that there is nothing that options could spoil."""
    return (out / MODEL_FILE).exists() or any((out / "checkpoints").glob("*.ckpt"))


def write_state(folder: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write model.safetensors. Raises DiskError, leaving what was there."""
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    versions = {"scanomaly": __version__, "torch": torch.__version__}
    content = safetensors.torch.save(tensors, {"format": str(MODEL_FORMAT), **versions, **metadata})
    write_file(folder / MODEL_FILE, lambda file: file.write_bytes(content))


def read_state(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a model file. Raises CheckpointError."""
    if not file.is_file():
        raise CheckpointError(
            f"{file} is missing: the run was not finished; `fit ... --resume` goes on."
        )
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); restore it or fit again.") from error
    _refuse_newer(file, metadata.get("format", "0"), MODEL_FORMAT)
    return state, metadata


def fill_tensors(own: Mapping[str, Tensor], state: Mapping[str, Tensor], file: Path) -> None:
    """Copy saved tensors into a model's own. Raises CheckpointError naming what does not fit."""
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {tuple(own[name].shape)} but got {tuple(state[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{file} does not fit this model: "
            f"missing {missing[:3] or 'nothing'}, unexpected {unexpected[:3] or 'nothing'}, "
            f"other shapes {shapes[:3] or 'none'}; load it with the configuration it was made with."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def save_training(record: TrainingRecord, folder: Path) -> None:
    write_text(folder / TRAINING_FILE, json.dumps(asdict(record), indent=1))


def load_training(folder: Path) -> TrainingRecord | None:
    """The training record, or None where there is none. Raises CheckpointError."""
    values = read_json(folder / TRAINING_FILE, TRAINING_FORMAT)
    if values is None:
        return None
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    try:
        return TrainingRecord(**{**values, **lists})
    except TypeError as error:
        raise CheckpointError(
            f"{folder / TRAINING_FILE} is damaged ({error}); restore it or fit again."
        ) from error


def read_json(file: Path, known: int) -> dict[str, Any] | None:
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


def _refuse_newer(file: Path, found: object, known: int) -> None:
    if not str(found).isdigit() or int(str(found)) > known:
        raise CheckpointError(
            f"{file} has format {found} and this Scanomaly reads up to {known}; "
            "upgrade with `pip install -U scanomaly`."
        )
