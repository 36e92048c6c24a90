"""Run folders of detectors: a fitted detector on disk, without the backbones' weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from scanomaly.calibration import FORMAT as CALIBRATION_FORMAT
from scanomaly.calibration import Calibration
from scanomaly.config.experiment import MODEL_FILE
from scanomaly.config.run import Run, load_run
from scanomaly.errors import CheckpointError
from scanomaly.files import write_text
from scanomaly.methods import METHODS, Detector
from scanomaly.run_folder import fill_tensors, read_json, read_state, write_state

CALIBRATION_FILE = "calibration.json"


def save_detector(detector: Detector, run: Run, folder: Path) -> None:
    """Write run.yaml and model.safetensors. Raises DiskError, leaving what was there."""
    backbones = sorted({network.fingerprint() for network in detector.frozen()})
    metadata = {"method": run.method, "backbones": json.dumps(backbones)}
    write_state(folder, detector.fitted_state(), metadata)
    run.save(folder)


def save_calibration(calibration: Calibration, folder: Path) -> None:
    write_text(folder / CALIBRATION_FILE, calibration.to_json())


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


def fill(
    detector: Detector, state: Mapping[str, Tensor], file: Path, *, leave: tuple[str, ...] = ()
) -> None:
    """Copy fitted tensors into a detector. Raises CheckpointError naming what does not fit.

    leave: beginnings of names that are left as they are, in the file or not.
    """
    state = {name: tensor for name, tensor in state.items() if not name.startswith(leave)}
    detector.make_room(state)
    own = {n: tensor for n, tensor in detector.fitted_state().items() if not n.startswith(leave)}
    fill_tensors(own, state, file)


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
    values = read_json(folder / CALIBRATION_FILE, CALIBRATION_FORMAT)
    if values is None:
        return None
    try:
        return Calibration.from_json(json.dumps(values))
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder / CALIBRATION_FILE} is damaged ({error}); restore it or fit again."
        ) from error
