"""Run x data set -> run folder: what `scanomaly fit` does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from scanomaly.checkpoint import fill, save_calibration, save_detector
from scanomaly.config.data import DataConfig
from scanomaly.config.fit import Precision
from scanomaly.config.run import Run
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.images import fit_window
from scanomaly.data.manifest import Manifest, read_manifest, read_manifests
from scanomaly.data.splits import few_shot, leave_one_out, missing_masks, validation_part
from scanomaly.errors import ConfigError
from scanomaly.inference import FittedDetector
from scanomaly.methods import METHODS, Detector
from scanomaly.methods.base import CHOSEN_ON_TEST
from scanomaly.run_folder import LAST_EPOCH, TrainingRecord, claim, read_state, save_training
from scanomaly.training import Criterion, History, is_main_process
from scanomaly.warm_starts import warm_start_file

logger = logging.getLogger(__name__)


TRAINED_ON = (
    "The healthy images that p-values rank among were trained on: p-values are too small, and more "
    "healthy images are flagged than promised."
)
OTHER_SETS = (
    "P-values rank test images among healthy images of other data sets and modalities: they "
    "promise no false-alarm rate here."
)
UNTAUGHT = "nothing: the method learns from no image"


@dataclass(frozen=True, slots=True)
class Roles:
    """Which images do what; test images have no part here, except in a published protocol.

    trained_on: train in words. validation: for early stopping, where asked. healthy: for
    calibration. source: where the healthy images come from, in words. notes: what readers must
    know of all that.
    """

    train: Manifest
    trained_on: str
    validation: Manifest
    healthy: Manifest
    source: str
    notes: tuple[str, ...] = ()


def read_training_data(run: Run, root: Path, dataset: str | None = None) -> Manifest:
    """The data set a run learns from: one of `root`, or all but the target. Raises DataError."""
    data = run.data
    data.require_complete()
    if data.supervision != "zero_shot":
        return read_manifest(root, dataset)
    assert data.target is not None  # as just required
    return leave_one_out(
        read_manifests(root),
        data.target,
        folder=data.training_folder,
        exclude_siblings=data.exclude_siblings,
    )


def fit(
    run: Run,
    manifest: Manifest,
    out: Path,
    *,
    resume: bool = False,
    result_on_test: Callable[[Run, Detector], float] | None = None,
) -> FittedDetector | None:
    """Train, calibrate and save; returns the loaded detector (None in a worker process).

    result_on_test: asked after every epoch where the published protocol keeps the best one on test.

    Raises FitError for a folder that holds another run, DataError for unusable data, and
    FitInterrupted after Ctrl-C, with everything needed to resume in the folder.
    """
    roles = assign_roles(run, manifest)
    run = _resolved(run, manifest, roles.train)
    if is_main_process():
        claim(out, run, resume)
        for note in roles.notes:
            logger.warning(note)
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
    criterion = _chosen_on_test(run, detector, out, result_on_test)
    history = _train(detector, run, roles, out, resume, criterion)
    if not is_main_process():
        return None
    save_detector(detector, run, out)
    del detector, criterion  # it holds the detector too
    record = _record(run, manifest, roles, history, time.monotonic() - started)
    save_training(record, out)
    if record.checkpoint == CHOSEN_ON_TEST:
        save_training(replace(record, checkpoint="last epoch"), out / LAST_EPOCH)
        _calibrate(out / LAST_EPOCH, roles)
    return _calibrate(out, roles)


def _chosen_on_test(
    run: Run,
    detector: Detector,
    out: Path,
    result_on_test: Callable[[Run, Detector], float] | None,
) -> Criterion | None:
    """What keeps the best epoch on test, where that is published; the last one goes beside it."""
    if run.protocol != "paper" or not detector.paper.chosen_on_test or result_on_test is None:
        return None

    def at_last() -> None:
        if is_main_process():
            save_detector(detector, run, out / LAST_EPOCH)

    return Criterion(CHOSEN_ON_TEST, partial(result_on_test, run, detector), at_last)


def assign_roles(run: Run, manifest: Manifest) -> Roles:
    """Who trains, chooses the checkpoint and calibrates. Raises DataError or ConfigError."""
    run.data.require_complete()
    if run.data.pasted and METHODS[run.method].learns_from_normals:
        raise ConfigError(
            f"data.pasted={run.data.pasted} makes abnormal images, and {run.method} learns from "
            "normal ones; leave it out."
        )
    roles = ROLES[run.data.supervision](run, manifest)
    if not METHODS[run.method].learns_from_normals or not roles.train.abnormals().rows:
        return replace(roles, notes=(*missing_masks(roles.train), *roles.notes))
    words = f"the normal images of {roles.trained_on}"
    return replace(roles, train=roles.train.normals(), trained_on=words)


def _normals_only(run: Run, manifest: Manifest) -> Roles:
    healthy, none = manifest.split("valid").normals(), replace(manifest, rows=())
    train = manifest.training() if run.config.learns or not healthy.rows else none
    trained_on = _words("train", train) if run.config.learns else UNTAUGHT
    if run.protocol == "paper":
        words = "nothing: the published protocol trains on all"
        return Roles(train, trained_on, none, none, words)
    if healthy.rows:
        words = f"valid: {len(healthy)} healthy images"
        return Roles(train, trained_on, healthy, healthy, words)
    kept, held = train.hold_out(run.data.calibration_share, run.fit.seed)
    words = f"{len(held)} healthy images held out of train, patient by patient"
    if not held.rows:
        words = "nothing: no healthy image was held out"
    trained_on = _words("train", kept) if run.config.learns else UNTAUGHT
    return Roles(kept, trained_on, held, held, words)


def _few_shot(run: Run, manifest: Manifest) -> Roles:
    """No part of K images is held out; each calibrates as if it had not been trained on."""
    shots = run.data.shots
    assert shots is not None
    support = few_shot(manifest, shots, run.data.support)
    left_out = METHODS[run.method].left_out(run.config)
    words = f"the {shots} healthy images of the support, {left_out or 'which were trained on'}"
    return Roles(
        support,
        _words(f"{shots}-shot support ({run.data.support})", support),
        replace(support, rows=()),
        support.normals(),
        words,
        notes=() if left_out else (TRAINED_ON,),
    )


def _zero_shot(run: Run, manifest: Manifest) -> Roles:
    words = f"{manifest.source}, {{}} of the data sets without {run.data.target}"
    if run.protocol == "paper":
        none = replace(manifest, rows=())
        return Roles(manifest, words.format("all images"), none, none, "nothing: as published")
    kept, held = validation_part(manifest, run.data.calibration_share, run.fit.seed)
    healthy = held.normals()
    source = f"{len(healthy)} healthy images of other data sets, held out patient by patient"
    trained_on = words.format(f"{len(kept)} images")
    notes = (OTHER_SETS,) if healthy.rows else ()
    return Roles(kept, trained_on, held, healthy, source, notes)


ROLES: Mapping[str, Callable[[Run, Manifest], Roles]] = {
    "normals": _normals_only,
    "few_shot": _few_shot,
    "zero_shot": _zero_shot,
}
"""What teaches (data.supervision) -> which images do what."""


def _words(split: str, manifest: Manifest) -> str:
    good, abnormal = len(manifest.normals()), len(manifest.abnormals())
    images = f"{good} normal" + (f" and {abnormal} abnormal" if abnormal else "")
    return f"{split}: {images} images of {manifest.dataset}"


def load_warm_start(detector: Detector, name: str) -> None:
    """Begin from packaged or given weights. Raises CheckpointError if they do not fit."""
    file = warm_start_file(name)
    fill(detector, read_state(file)[0], file, leave=detector.always_fitted)


def _resolved(run: Run, manifest: Manifest, train: Manifest) -> Run:
    """The run with all decided that the images decide, so that prediction uses the same."""
    config = run.config.for_dataset(run.data.target or manifest.dataset)
    run = run.model_copy(update={"config": config})
    if run.data.window is not None:
        return run
    seen = train if train.rows else manifest.split("valid").normals()
    window = fit_window([row.path for row in seen])
    if window is not None:
        logger.info("images are deeper than 8 bits: intensities %g to %g become 0 to 1", *window)
    return run.model_copy(update={"data": run.data.model_copy(update={"window": window})})


def _train(
    detector: Detector, run: Run, roles: Roles, out: Path, resume: bool, criterion: Criterion | None
) -> History:
    supervised = run.data.supervision != "normals"

    def images(manifest: Manifest, copies: str, pasted: int = 0) -> ImageDataset:
        return ImageDataset(
            manifest,
            detector.input_spec,
            run.data,
            run.fit.seed,
            with_masks=supervised,
            copies=copies,
            pasted=pasted,
        )

    stops = run.fit.patience and roles.validation.rows
    return detector.fit(
        images(roles.train, run.data.copies, run.data.pasted),
        images(roles.validation, "none") if stops else None,
        options=run.fit,
        run_dir=out,
        resume=resume,
        criterion=criterion,
    )


def _record(
    run: Run, manifest: Manifest, roles: Roles, history: History, seconds: float
) -> TrainingRecord:
    chosen = history.checkpoint
    if chosen == "best validation loss":
        chosen += f" on {len(roles.validation)} held-out images"
    return TrainingRecord(
        trained_on=roles.trained_on + _pasted_words(run.data, roles.train),
        checkpoint=chosen,
        calibrated_on=roles.source,
        warm_start=run.fit.warm_start or "none",
        steps=history.steps,
        seconds=round(seconds, 1),
        train_loss=history.train_loss,
        validation_loss=history.validation_loss,
        images={"train": len(roles.train), "healthy": len(roles.healthy)},
        notes=(*manifest.overlap_words(), *roles.notes),
    )


def _pasted_words(data: DataConfig, train: Manifest) -> str:
    everywhere = data.pastes_into(masked=True)
    if not data.pasted or not (everywhere or train.label_only):
        return ""
    words = f", {data.pasted} made abnormal of each normal one"
    return words if everywhere else f"{words} of sets without masks"


def _calibrate(out: Path, roles: Roles, precision: Precision = "fp32") -> FittedDetector:
    """Calibrate what `load` will give: backbones exact again, not as training rounded them."""
    fitted = FittedDetector.load(out, precision=precision)
    if not roles.healthy.rows:
        return fitted
    fitted = calibrated(fitted, roles.healthy, roles.source)
    assert fitted.calibration is not None  # as just made
    save_calibration(fitted.calibration, out)
    return fitted


def calibrated(fitted: FittedDetector, healthy: Manifest, source: str) -> FittedDetector:
    """The same with a calibration on healthy images; says where they are too few to flag any."""
    calibration = fitted.calibrated(healthy, source)
    if not calibration.can_flag:
        logger.warning(
            "%d healthy images are too few to flag anything at a false-alarm rate of %g",
            len(calibration.scores),
            calibration.false_alarm_rate,
        )
    return replace(fitted, calibration=calibration)
