"""Run x data set -> run folder: what `scanomaly fit` does."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import torch

from scanomaly.checkpoint import (
    MODEL_FILE,
    TrainingRecord,
    fill,
    read_state,
    save_calibration,
    save_detector,
    save_training,
)
from scanomaly.config.fit import Precision
from scanomaly.config.run import RUN_FILE, Run, load_run
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.images import fit_window
from scanomaly.data.manifest import Manifest
from scanomaly.errors import ConfigError, FitError
from scanomaly.inference import FittedDetector
from scanomaly.methods import METHODS, Detector
from scanomaly.training import History, is_main_process

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which images do what; test images have no part here."""

    train: Manifest
    healthy: Manifest
    """Held-out healthy images: calibration, and early stopping where asked."""
    source: str
    """Where the healthy images come from, in words."""


def fit(run: Run, manifest: Manifest, out: Path, *, resume: bool = False) -> FittedDetector | None:
    """Train, calibrate and save; returns the loaded detector (None in a worker process).

    Raises FitError for a folder that holds another run, DataError for unusable data, and
    FitInterrupted after Ctrl-C, with everything needed to resume in the folder.
    """
    roles = assign_roles(run, manifest)
    run = _with_window(run, roles.train)
    if is_main_process():
        _claim(out, run, resume)
    torch.manual_seed(run.fit.seed)  # what the weights start from
    detector = METHODS[run.method].build(run.config)
    if run.fit.warm_start is not None:
        load_warm_start(detector, run.fit.warm_start)
    if is_main_process():
        run.save(out)  # not before: without its weights a run has not begun
    logger.info(
        "training on %d images; %d trainable values",
        len(roles.train),
        sum(p.numel() for p in detector.parameters() if p.requires_grad),
    )
    started = time.monotonic()
    history = _train(detector, run, roles, out, resume)
    if not is_main_process():
        return None
    save_detector(detector, run, out)
    del detector
    record = _record(run, manifest, roles, history, time.monotonic() - started)
    save_training(record, out)
    return _calibrate(out, roles)


def assign_roles(run: Run, manifest: Manifest) -> Roles:
    """Training images, and the healthy ones held out from them. Raises DataError."""
    train = manifest.training()
    if run.protocol == "paper":
        return Roles(
            train, replace(train, rows=()), "nothing: the published protocol trains on all"
        )
    healthy = manifest.split("valid").normals()
    if healthy.rows:
        return Roles(train, healthy, f"valid: {len(healthy)} healthy images")
    kept, held = train.hold_out(run.data.calibration_share, run.fit.seed)
    words = f"{len(held)} healthy images held out of train, patient by patient"
    return Roles(kept, held, words if held.rows else "nothing: no healthy image was held out")


def load_warm_start(detector: Detector, name: str) -> None:
    """Begin from packaged or given weights. Raises CheckpointError if they do not fit."""
    packaged = files("scanomaly") / "assets" / f"{name}.safetensors"
    if packaged.is_file():
        with as_file(packaged) as file:
            fill(detector, read_state(file)[0], file)
        return
    path = Path(name) / MODEL_FILE if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise ConfigError(
            f"fit.warm_start={name}: expected a packaged name ({', '.join(warm_starts())}) or the "
            "path of a run folder or model.safetensors; set it to null to start from nothing."
        )
    fill(detector, read_state(path)[0], path)


def warm_starts() -> Sequence[str]:
    """Names of the warm starts that come with the package."""
    folder = files("scanomaly") / "assets"
    return sorted(
        entry.name.removesuffix(".safetensors")
        for entry in folder.iterdir()
        if entry.name.endswith(".safetensors")
    )


def _with_window(run: Run, train: Manifest) -> Run:
    """The run with its intensity window decided, so that prediction uses the same one."""
    if run.data.window is not None:
        return run
    window = fit_window([row.path for row in train])
    if window is not None:
        logger.info("images are deeper than 8 bits: intensities %g to %g become 0 to 1", *window)
    return run.model_copy(update={"data": run.data.model_copy(update={"window": window})})


def _claim(out: Path, run: Run, resume: bool) -> None:
    """Make the folder this run's. Raises FitError when another run is in it."""
    if (out / RUN_FILE).exists():
        if not resume:
            raise FitError(
                f"{out} already holds a run; add --resume to go on with it, or give another folder."
            )
        if _has_progress(out) and load_run(out) != run:
            raise FitError(
                f"{out} holds a run with other options; resume with the options it was started "
                "with (--config run.yaml), or give another folder."
            )
    elif out.is_dir() and any(out.iterdir()):
        raise FitError(f"{out} holds other files; give a new or empty folder.")


def _has_progress(out: Path) -> bool:
    """Whether an epoch was ever finished; before that there is nothing that options could spoil."""
    return (out / MODEL_FILE).exists() or any((out / "checkpoints").glob("*.ckpt"))


def _train(detector: Detector, run: Run, roles: Roles, out: Path, resume: bool) -> History:
    def images(manifest: Manifest, data: object = None) -> ImageDataset:
        return ImageDataset(manifest, detector.input_spec, run.data, run.fit.seed, with_masks=False)

    validation = images(roles.healthy) if run.fit.patience and roles.healthy.rows else None
    return detector.fit(
        images(roles.train), validation, options=run.fit, run_dir=out, resume=resume
    )


def _record(
    run: Run, manifest: Manifest, roles: Roles, history: History, seconds: float
) -> TrainingRecord:
    chosen = history.checkpoint
    if chosen != "last epoch":
        chosen += f" on {roles.source}"
    overlap = manifest.patient_overlap()
    return TrainingRecord(
        trained_on=f"train: {len(roles.train)} normal images of {manifest.dataset}",
        checkpoint=chosen,
        calibrated_on=roles.source,
        warm_start=run.fit.warm_start or "none",
        steps=history.steps,
        seconds=round(seconds, 1),
        train_loss=history.train_loss,
        validation_loss=history.validation_loss,
        images={"train": len(roles.train), "healthy": len(roles.healthy)},
        notes=tuple(f"{len(p)} patients in both {a} and {b}" for (a, b), p in overlap.items()),
    )


def _calibrate(out: Path, roles: Roles, precision: Precision = "fp32") -> FittedDetector:
    """Calibrate what `load` will give: backbones exact again, not as training rounded them."""
    fitted = FittedDetector.load(out, precision=precision)
    if not roles.healthy.rows:
        return fitted
    calibration = fitted.calibrated(roles.healthy, roles.source)
    if not calibration.can_flag:
        logger.warning(
            "%d healthy images are too few to flag anything at a false-alarm rate of %g",
            len(calibration.scores),
            calibration.false_alarm_rate,
        )
    save_calibration(calibration, out)
    return replace(fitted, calibration=calibration)
