"""A detector's published checkpoint to a run folder that `evaluate` and `predict` take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from scanomaly.checkpoint import save_calibration, save_detector
from scanomaly.config.base import MethodConfig
from scanomaly.config.run import Run
from scanomaly.data.bmad import canonical_name
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.devices import resolve_device
from scanomaly.errors import ConfigError, DataError
from scanomaly.fitting import assign_roles, calibrated
from scanomaly.importing.layout import Account, Layout, account, fill_in
from scanomaly.importing.published import Published
from scanomaly.importing.recognising import require_fit
from scanomaly.importing.records import Imported, record
from scanomaly.inference import FittedDetector
from scanomaly.methods import METHODS, MVFA, Detector
from scanomaly.methods.clip_detector import ClipDetector
from scanomaly.methods.prompts import ensemble
from scanomaly.run_folder import save_training

NOT_CALIBRATED = (
    "not calibrated, so that scores have no p-value: import it into another folder with "
    "--calibrate DATA, whose healthy images of split valid calibrate it"
)


@dataclass(frozen=True, slots=True)
class Images:
    """What an import may need besides the file.

    dataset: which set the detector is for. support: where the few-shot support lies. healthy: whose
    healthy validation images calibrate. Folders as `fit` takes them.
    """

    dataset: str | None = None
    support: Path | None = None
    healthy: Path | None = None


def import_detector(
    published: Published,
    layout: Layout,
    run: Run,
    out: Path,
    images: Images,
    device: str = "auto",
) -> Imported:
    """Build the run's detector, fill it in, complete and calibrate it, and write the folder.

    Raises CheckpointError for a file that does not fit, WeightsError for backbones that are not
    here, ConfigError and DataError for options and images that cannot be used.
    """
    if images.dataset is not None:
        images = replace(images, dataset=canonical_name(images.dataset) or images.dataset)
    require_fit(published, layout, run, images.dataset)
    support = _support(run, images)
    run = _resolved(run, images.dataset, support)
    detector = METHODS[run.method].build(run.config)
    counted = fill_detector(detector, published, layout, run.config)
    detector.to(resolve_device(device)).eval()
    notes = _complete(detector, run, support)
    fitted = FittedDetector(run, detector.eval())
    healthy = _healthy(images, support)
    source = ""
    if healthy is not None:
        source = f"valid: {len(healthy)} healthy images of {healthy.dataset}"
        fitted = calibrated(fitted, healthy, source)
    save_detector(detector, run, out)
    if fitted.calibration is not None:
        save_calibration(fitted.calibration, out)
    made = record(published, layout, (*counted.reasons, *notes))
    save_training(replace(made, calibrated_on=source), out)
    hints = () if source else (NOT_CALIBRATED,)
    return Imported(out, fitted.weights, (*made.notes, *hints))


def fill_detector(
    detector: Detector, published: Published, layout: Layout, config: MethodConfig
) -> Account:
    """Fill in what a file holds, and compare its frozen weights. Raises CheckpointError."""
    fitted = detector.fitted_state()
    everything = [
        *detector.named_parameters(remove_duplicate=False),
        *detector.named_buffers(remove_duplicate=False),
    ]
    frozen = {name: tensor.detach() for name, tensor in everything if name not in fitted}
    counted = account(published, layout, config, fitted, frozen)
    fill_in(counted, fitted, frozen, published.file)
    return counted


def _support(run: Run, images: Images) -> Manifest | None:
    """The labelled images of a few-shot run, where they are given. Raises ConfigError."""
    if run.data.supervision != "few_shot":
        if images.support is not None:
            raise ConfigError(
                f"--data is the support of a few-shot run, and {run.preset} is none; leave it out."
            )
        return None
    if images.support is not None:
        return assign_roles(run, read_manifest(images.support, images.dataset)).train
    if run.method == "mvfa":
        raise ConfigError(
            f"{run.preset} compares with a memory bank of its normal support images, which no "
            "published file holds: give --data DATA with the data set they are from (and "
            "--set data.shots=K, if not 4)."
        )
    return None


def _resolved(run: Run, dataset: str | None, support: Manifest | None) -> Run:
    """As published, and for that data set. Raises ConfigError where a run must know which."""
    run = run.under("paper")
    if run.data.supervision == "zero_shot" and run.data.target is None:
        if dataset is None:
            raise ConfigError(
                f"{run.preset} is for the data set that was left out: give --dataset NAME."
            )
        data = run.data.model_copy(update={"target": dataset})
        run = run.model_copy(update={"data": data})
    name = dataset or run.data.target or (None if support is None else support.dataset)
    return run if name is None else run.model_copy(update={"config": run.config.for_dataset(name)})


@torch.no_grad()
def _complete(detector: Detector, run: Run, support: Manifest | None) -> tuple[str, ...]:
    """All that `fit` makes without gradients: text features, memory bank, ranges. Says what."""
    if not isinstance(detector, ClipDetector):
        return ()
    if support is None:
        if isinstance(detector, MVFA):
            detector.text_features.copy_(ensemble(detector.text, str(detector.config.object)))
        return ("branches are in their own units: no training images to take ranges from",)
    data = ImageDataset(
        support,
        detector.input_spec,
        run.data,
        run.fit.seed,
        with_masks=True,
        copies=run.data.copies,
    )
    detector.prepare(data, run.fit.micro_batch)
    detector.complete(data, run.fit.micro_batch)
    detector.eval()
    return (f"made here from {support.source}: all but the published weights",)


def _healthy(images: Images, support: Manifest | None) -> Manifest | None:
    """Healthy validation images whose patients are not in the support. Raises DataError."""
    if images.healthy is None:
        return None
    normals = read_manifest(images.healthy, images.dataset).split("valid").normals()
    taught = set() if support is None else set(support.groups())
    pairs = zip(normals.rows, normals.groups(), strict=True)
    healthy = replace(normals, rows=tuple(row for row, group in pairs if group not in taught))
    if not healthy.rows:
        raise DataError(
            f"--calibrate {images.healthy}: expected healthy images in split valid that taught "
            f"nothing, found none ({normals.source}); those of train taught the published "
            "weights, so give a folder or manifest with others."
        )
    return healthy
