"""A published checkpoint from its file: tensors and plain values, never code.

`torch.load` with weights_only=True: a global outside torch's own list and SAFE is refused by name.
"""

from __future__ import annotations

import re
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from scanomaly.backbones.weights.verification import sha256
from scanomaly.errors import CheckpointError


class ModelCheckpointKey:
    """Stands for a class that older Lightning files use as a key."""


class EarlyStoppingKey:
    """The same."""


SAFE: tuple[tuple[Any, str], ...] = (
    (OrderedDict, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (Namespace, "argparse.Namespace"),
    (PurePosixPath, "pathlib.PosixPath"),
    (ModelCheckpointKey, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (EarlyStoppingKey, "pytorch_lightning.callbacks.early_stopping.EarlyStopping"),
)
"""What is made in the place of globals beside torch's own: hyper-parameters and paths of Lightning
1.5 files. None of it does anything when it is made."""

TRAINING_STATE = frozenset(
    {
        *("epoch", "global_step", "pytorch-lightning_version", "callbacks", "loops"),
        *("optimizer_states", "lr_schedulers", "optimizer", "scheduler", "scaler"),
        *("native_amp_scaling_state", "amp_scaling_state"),
        *("hyper_parameters", "hparams_name", "hparams_type"),
        *("datamodule_hyper_parameters", "datamodule_hparams_name", "datamodule_hparams_type"),
    }
)
"""Beside the weights at the top of a file: left out, for nothing of it predicts."""
WRAPPER = "state_dict"


@dataclass(frozen=True, slots=True)
class Published:
    """A file's content. tensors: nested keys joined by dots.

    strange: keys of what is neither a tensor nor TRAINING_STATE. training_state: what was left out.
    """

    file: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    strange: tuple[str, ...] = ()
    training_state: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def read_published(file: Path) -> Published:
    """Read a file, on the CPU. Raises CheckpointError for one that is missing, damaged, or code."""
    if not file.is_file():
        raise CheckpointError(
            f"{file}: expected the file of a published checkpoint, found "
            f"{'a folder' if file.is_dir() else 'nothing'}; give the file itself."
        )
    content = _load(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{file}: expected a table of tensors, found a {type(content).__name__}; give a "
            "checkpoint that holds state dicts."
        )
    left_out = tuple(sorted(str(key) for key in content if key in TRAINING_STATE))
    weights = {key: value for key, value in content.items() if key not in TRAINING_STATE}
    if isinstance(weights.get(WRAPPER), Mapping):
        weights = {**weights.pop(WRAPPER), **weights}
    leaves = dict(_leaves(weights))
    tensors = {key: value for key, value in leaves.items() if isinstance(value, Tensor)}
    strange = tuple(sorted(leaves.keys() - tensors.keys()))
    return Published(file, sha256(file), tensors, strange, left_out)


def _load(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(SAFE)):
            return torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except Exception as error:  # a damaged file has a dozen ways of being broken
        forbidden = _forbidden_globals(file, str(error))
        if forbidden:
            raise CheckpointError(
                f"{file} would run {', '.join(forbidden)} when opened, which is refused: only "
                "tensors and plain values are read. If you trust it, open it where it was made "
                "and save its tensors alone: torch.save({'state_dict': checkpoint['state_dict']}, "
                "'tensors.pth')."
            ) from error
        reason = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}: {reason}); it is "
            "damaged, incomplete or of another format: fetch it again."
        ) from error


def _forbidden_globals(file: Path, message: str) -> list[str]:
    """Names of the globals because of which a file was refused; empty for any other reason."""
    with suppress(Exception), torch.serialization.safe_globals(list(SAFE)):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    return re.findall(r"GLOBAL ([\w.]+) (?:was not|whose)", message)


def _leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
