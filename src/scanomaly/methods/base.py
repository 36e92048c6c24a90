"""What every detector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from scanomaly.backbones.base import Backbone
from scanomaly.calibration import Calibration
from scanomaly.config.data import InputSpec
from scanomaly.config.fit import FitOptions, Precision
from scanomaly.errors import FitError
from scanomaly.records import Batch, Prediction
from scanomaly.training import History, TrainingData

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAP_RANGE_QUANTILES = (0.95, 0.999)
"""Of the pixels of one healthy image: what is shown as nothing, and its highest values."""


class Detector(nn.Module, ABC):
    """Fits on training images, predicts image by image: no statistic of a test set inside."""

    precision: Precision = "fp32"

    @classmethod
    @abstractmethod
    def build(cls, config: Any) -> Self:
        """Load the backbones a configuration names and assemble the parts."""

    @property
    @abstractmethod
    def input_spec(self) -> InputSpec:
        """How images must be resized for this detector."""

    @abstractmethod
    def fit(
        self,
        train: TrainingData,
        validation: TrainingData | None = None,
        *,
        options: FitOptions,
        run_dir: Path,
        resume: bool = False,
    ) -> History:
        """Train on images (the items of an ImageDataset); backbones stay untouched."""

    @abstractmethod
    def predict(self, batch: Batch) -> Prediction:
        """Score each image on its own; the batch it comes in changes nothing."""

    def calibrate(
        self, normals: Iterable[Batch], *, false_alarm_rate: float, source: str
    ) -> Calibration:
        """Healthy score distribution and map range from held-out healthy images.

        Raises FitError for a score or map that is not finite.
        """
        scores: list[float] = []
        tops: list[Tensor] = []
        for batch in normals:
            prediction = self.predict(batch)
            flat = prediction.anomaly_map.flatten(1).float().cpu()
            _require_finite(batch, prediction.score.cpu().isfinite() & flat.isfinite().all(dim=1))
            scores += prediction.score.tolist()
            quantiles = torch.tensor(MAP_RANGE_QUANTILES)
            tops.append(torch.stack([row.quantile(quantiles) for row in flat]))
        quiet, highest = torch.cat(tops).unbind(dim=1)
        low, high = quiet.median().item(), highest.quantile(1 - false_alarm_rate).item()
        return Calibration.of(scores, false_alarm_rate, (low, max(high, low + 1e-12)), source)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of this detector's precision; does nothing in fp32."""
        dtype = AUTOCAST[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def use_precision(self, precision: Precision) -> Self:
        """Predict in this precision from now on; frozen weights are cast once."""
        self.precision = precision
        for backbone in self.backbones():
            backbone.cast(AUTOCAST[precision] or torch.float32)
        return self

    def backbones(self) -> list[Backbone]:
        return [module for module in self.modules() if isinstance(module, Backbone)]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def fitted_state(self) -> dict[str, Tensor]:
        """Everything that `fit` makes: the state without the backbones' weights."""
        frozen = tuple(
            f"{name}."
            for name, module in self.named_modules(remove_duplicate=False)
            if isinstance(module, Backbone)
        )
        return {k: v for k, v in self.state_dict().items() if not k.startswith(frozen)}


def _require_finite(batch: Batch, finite: Tensor) -> None:
    """finite: bool (B,)."""
    if not finite.all():
        name = batch.ids[int(finite.int().argmin())]
        raise FitError(
            f"{name}: the score of this healthy image is not finite; lower fit.learning_rate or "
            "use fit.precision=fp32."
        )
