"""A fitted detector that takes files and arrays and answers on their own grid.

n images, S method's side, H W pixels of the file
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from scanomaly.backbones.weights import licence_of
from scanomaly.calibration import Calibration
from scanomaly.checkpoint import load_calibration, load_detector
from scanomaly.config.experiment import MODEL_FILE
from scanomaly.config.fit import Precision
from scanomaly.config.run import Run, backbone_names
from scanomaly.data.dataset import ImageDataset, Item, collate
from scanomaly.data.images import as_image
from scanomaly.data.manifest import Manifest, Row, list_images
from scanomaly.data.transform import Geometry, prepare
from scanomaly.devices import resolve_device
from scanomaly.errors import DataError
from scanomaly.maps import upsample
from scanomaly.methods import Detector
from scanomaly.records import Batch, Prediction
from scanomaly.run_folder import LAST_EPOCH, load_training

Result = TypeVar("Result")
OnError = Callable[[Row, DataError], None]
BATCH = 16
DECODERS = max(2, min(8, os.cpu_count() or 2))
"""Threads that decode images."""
BATCHES_AHEAD = 2
"""Batches that are decoded while the detector computes another."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One image of a manifest, on the method's grid.

    anomaly_map: float32 (S, S). mask: bool (S, S), None when unread or unknown.
    reconstruction: float32 (S, S, 3) in 0..1. part_maps: float32 (S, S) and part_scores: of
    branches and levels by name, where asked for.
    """

    row: Row
    score: float
    anomaly_map: NDArray[np.float32]
    geometry: Geometry
    mask: NDArray[np.bool_] | None = None
    reconstruction: NDArray[np.float32] | None = None
    part_maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    part_scores: Mapping[str, float] = field(default_factory=dict)

    def reconstruction_on_input_grid(self) -> NDArray[np.uint8] | None:
        """uint8 (H, W, 3), None if the method does not reconstruct."""
        if self.reconstruction is None:
            return None
        back = self.geometry.to_input_grid(self.reconstruction)
        return (back.clip(0, 1) * 255).round().astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector says of one image, on the image's own pixel grid.

    score: higher = more anomalous. p_value: rank among held-out healthy images. flagged: at the
    calibrated false-alarm rate; both None without calibration. anomaly_map: float32 (H, W).
    reconstruction: uint8 (H, W, 3), None if the method does not reconstruct.
    """

    id: str
    score: float
    p_value: float | None
    flagged: bool | None
    anomaly_map: NDArray[np.float32]
    reconstruction: NDArray[np.uint8] | None


@dataclass(frozen=True)
class FittedDetector:
    """A detector, the run that made it, and its calibration."""

    run: Run
    detector: Detector
    calibration: Calibration | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What its training says that a reader of any result must know."""
    last_epoch: Path | None = None
    """Run folder of the last epoch of the same training, where a criterion chose this one."""

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", precision: Precision = "fp32") -> Self:
        """Load a run folder. Raises CheckpointError or WeightsError."""
        detector, run = load_detector(folder)
        detector.to(resolve_device(device)).use_precision(precision)
        record, last = load_training(folder), folder / LAST_EPOCH
        return cls(
            run,
            detector,
            load_calibration(folder),
            splits={} if record is None else record.splits,
            notes=() if record is None else record.notes,
            last_epoch=last if (last / MODEL_FILE).is_file() else None,
        )

    def at_last_epoch(self) -> FittedDetector:
        """The last epoch of the same training; itself where it is that, or no other was kept."""
        if self.last_epoch is None:
            return self
        device, precision = str(self.detector.device), self.detector.precision
        return type(self).load(self.last_epoch, device=device, precision=precision)

    def predict(self, batch: Batch) -> Prediction:
        """What the detector says of a batch of `batches`, with its calibrated map range."""
        prediction = self.detector.predict(batch.to(self.detector.device))
        if self.calibration is None:
            return prediction
        return replace(prediction, map_range=self.calibration.map_range)

    def score(self, image: Path | str | NDArray[Any]) -> Finding:
        """Score one file or array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).

        uint8, or float in 0..1; deeper images go through the run's intensity window. Raises
        DataError naming the file. For many images there is `score_rows`.
        """
        if isinstance(image, np.ndarray):
            pixels = as_image(image, self.run.data.window)
            tensor, geometry = prepare(pixels, self.detector.input_spec, self.run.data.preprocess)
            item = Item(tensor, "array", None, None, geometry)
            row = Row("array", Path("array"))
            return self.finding(next(_usable(self._predicted([(row, item)]), None))[1])
        rows = tuple(list_images([Path(image)]))
        if len(rows) != 1:
            raise DataError(
                f"{image}: expected one image file, found a folder of {len(rows)}; give one of "
                f"them, such as {rows[0].path}."
            )
        return self.finding(next(iter(self.score_rows(Manifest(rows, "", "files")))))

    def score_rows(
        self,
        manifest: Manifest,
        *,
        with_masks: bool = False,
        with_parts: bool = False,
        on_error: OnError | None = None,
        decoders: int = DECODERS,
    ) -> Iterator[Scored]:
        """Score every image in order; a few batches are in memory at a time.

        While the detector computes, `decoders` threads decode the next batches. with_parts: maps
        and scores of branches and levels too, many times the size of the rest.
        on_error is told of an image that cannot be used, which is then left out; without it the
        first such image raises DataError.
        """
        images = ImageDataset(
            manifest, self.detector.input_spec, self.run.data, with_masks=with_masks
        )
        for decoded in _decoded_ahead(images, decoders):
            pairs = list(_usable(decoded, on_error))
            for _, scored in _usable(self._predicted(pairs, with_parts), on_error):
                yield scored

    def _predicted(
        self, pairs: Sequence[tuple[Row, Item]], with_parts: bool = False
    ) -> Iterator[tuple[Row, Scored | DataError]]:
        if not pairs:
            return
        prediction = self.predict(collate([item for _, item in pairs]))
        if not with_parts:
            prediction = replace(prediction, parts={})
        yield from _split(prediction, pairs)

    def meaning(self, score: float) -> tuple[float | None, bool | None]:
        """(p-value, flagged) of a score; both None without calibration."""
        if self.calibration is None:
            return None, None
        return self.calibration.p_value(score), self.calibration.flagged(score)

    def finding(self, scored: Scored) -> Finding:
        """A score with its meaning, on the file's grid."""
        p_value, flagged = self.meaning(scored.score)
        return Finding(
            id=scored.row.id,
            score=scored.score,
            p_value=p_value,
            flagged=flagged,
            anomaly_map=scored.geometry.to_input_grid(scored.anomaly_map),
            reconstruction=scored.reconstruction_on_input_grid(),
        )

    def scaled(self, anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map with its calibrated range on 0..1, the same for every image; not clipped.

        Without calibration: the map's own range.
        """
        if self.calibration is not None:
            low, high = self.calibration.map_range
        else:
            low, high = float(anomaly_map.min()), float(anomaly_map.max())
        return ((anomaly_map - low) / max(high - low, 1e-12)).astype(np.float32)

    def batches(self, manifest: Manifest, *, with_masks: bool = False) -> Iterator[Batch]:
        """The images as the detector takes them, on its device."""
        images = ImageDataset(
            manifest, self.detector.input_spec, self.run.data, with_masks=with_masks
        )
        for indices in _batched(len(images)):
            yield collate([images[i] for i in indices]).to(self.detector.device)

    def calibrated(self, normals: Manifest, source: str) -> Calibration:
        """Fit a calibration on healthy images that did not train the detector."""
        return self.detector.calibrate(
            self.batches(normals),
            false_alarm_rate=self.run.data.false_alarm_rate,
            source=source,
        )

    @property
    def weights(self) -> tuple[str, ...]:
        """Pretrained weights the detector uses, with their licences."""
        return tuple(f"{name}: {licence_of(name)}" for name in backbone_names(self.run))


def _batched(count: int) -> Iterator[range]:
    return (range(i, min(i + BATCH, count)) for i in range(0, count, BATCH))


def _decoded_ahead(
    images: ImageDataset, threads: int
) -> Iterator[list[tuple[Row, Item | DataError]]]:
    """Batches in order; threads decode the next ones while the caller works on one."""
    waiting: deque[list[Future[tuple[Row, Item | DataError]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for indices in _batched(len(images)):
                waiting.append([pool.submit(_decode, images, i) for i in indices])
                if len(waiting) > BATCHES_AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # of a caller who has seen enough


def _decode(images: ImageDataset, index: int) -> tuple[Row, Item | DataError]:
    row = images.rows[index]
    try:
        return row, images[index]
    except DataError as error:
        return row, error
    except Exception as error:  # a decoder's surprise must not stop a million other images
        surprise = DataError(
            f"{row.path}: could not be decoded ({type(error).__name__}: {error}); copy or export "
            "it again, or remove it."
        )
        surprise.__cause__ = error
        return row, surprise


def _usable(
    results: Iterable[tuple[Row, Result | DataError]], on_error: OnError | None
) -> Iterator[tuple[Row, Result]]:
    """Those that are no error; on_error is told of the others, without it the first is raised."""
    for row, result in results:
        if not isinstance(result, DataError):
            yield row, result
        elif on_error is None:
            raise result
        else:
            on_error(row, result)


def _split(
    prediction: Prediction, pairs: Sequence[tuple[Row, Item]]
) -> Iterator[tuple[Row, Scored | DataError]]:
    """The batch's images one by one; an error in place of a score that is not finite."""
    scores = prediction.score.float().cpu().tolist()
    maps = prediction.anomaly_map.float().cpu().numpy()
    reconstruction = prediction.reconstruction
    pictures = (
        None if reconstruction is None else reconstruction.permute(0, 2, 3, 1).float().cpu().numpy()
    )
    part_maps, part_scores = _parts_of(prediction)
    for i, (row, item) in enumerate(pairs):
        if not np.isfinite(scores[i]):
            yield (
                row,
                DataError(
                    f"{row.path}: its score is not finite; the image or the model is broken, or "
                    "the precision too low (--precision fp32)."
                ),
            )
            continue
        scored = Scored(
            row=row,
            score=scores[i],
            anomaly_map=maps[i, 0].copy(),
            geometry=item.geometry,
            mask=None if item.mask is None else item.mask[0].numpy(),
            reconstruction=None if pictures is None else pictures[i].copy(),
            part_maps={name: part[i].copy() for name, part in part_maps.items()},
            part_scores={name: part[i] for name, part in part_scores.items()},
        )
        yield row, scored


def _parts_of(
    prediction: Prediction,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, list[float]]]:
    """Maps of branches and levels at the anomaly map's side, float32 (n, S, S); and scores."""
    height, width = prediction.anomaly_map.shape[-2:]
    parts = {name: part.float() for name, part in prediction.parts.items()}
    maps = {name: part for name, part in parts.items() if part.ndim == 4}
    return (
        {name: upsample(part, (height, width))[:, 0].cpu().numpy() for name, part in maps.items()},
        {name: part.tolist() for name, part in parts.items() if part.ndim == 1},
    )


def load(
    folder: Path | str, *, device: str = "auto", precision: Precision = "fp32"
) -> FittedDetector:
    """Load a run folder: `scanomaly.load("runs/brain").score("scan.png")`.

    Raises CheckpointError or WeightsError, which say what to do.
    """
    return FittedDetector.load(Path(folder), device=device, precision=precision)
