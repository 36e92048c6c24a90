"""What every detector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from scanomaly.backbones.base import FrozenNetwork
from scanomaly.calibration import Calibration
from scanomaly.config.data import InputSpec
from scanomaly.config.fit import FitOptions, Precision
from scanomaly.errors import FitError
from scanomaly.records import Batch, Embedding, Prediction
from scanomaly.training import AUTOCAST, Criterion, History, TrainingData, autocast

MAP_RANGE_QUANTILES = (0.95, 0.999)
"""Of the pixels of one healthy image: what is shown as nothing, and its highest values."""


CHOSEN_ON_TEST = "best epoch on the test set, as published: results are too good"
"""The test set is asked once after every epoch, and the first of equal ones is kept; the released
code of MVFA and IQE-CLIP asks five times an epoch in zero-shot, and keeps the last of equal ones
(>=)."""
LEFT_OUT_IN_TURN = "each left out of the memory in turn"


class PaperProtocol(NamedTuple):
    """What a published evaluation does that an honest one would not.

    last_batch_lost: test files are shuffled and the last incomplete batch of this size is dropped.
    ranges_from_test: branches are scaled by their extremes over the test set. chosen_on_test: the
    epoch with the best test result is kept.
    """

    last_batch_lost: int | None = None
    ranges_from_test: bool = False
    chosen_on_test: bool = False


class Detector(nn.Module, ABC):
    """Fits on training images, predicts image by image: no statistic of a test set inside."""

    paper: ClassVar[PaperProtocol] = PaperProtocol()
    always_fitted: ClassVar[tuple[str, ...]] = ()
    """Beginnings of state names that every `fit` makes anew: a warm start does not bring them."""
    learns_from_normals: ClassVar[bool] = False
    """Whether `fit` is given the normal images alone, also of a support or of other data sets."""
    precision: Precision = "fp32"

    @classmethod
    def left_out(cls, config: Any) -> str | None:
        """How `predict_held_out` does without a training image, in words; None where it cannot."""
        return None

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
        criterion: Criterion | None = None,
    ) -> History:
        """Train on images (the items of an ImageDataset); frozen networks stay untouched.

        criterion: asked after every epoch, of a detector that is ready to predict, which epoch to
        keep.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> Prediction:
        """Score each image on its own; the batch it comes in changes nothing."""

    def predict_held_out(self, batch: Batch) -> Prediction:
        """Score training images as if they had not been trained on, where the method can."""
        return self.predict(batch)

    def embeddings(self, batch: Batch) -> Sequence[Embedding]:
        """What figures show of these images as points, such as features before and after.

        The same figures, rows, columns and series for every batch. A method without this has
        nothing to show.
        """
        raise NotImplementedError(f"{type(self).__name__} has no embeddings to show.")

    def scaled_to(self, batches: Iterable[Batch]) -> AbstractContextManager[None]:
        """While it lasts, branches are scaled by their extremes over these images (protocols)."""
        raise NotImplementedError(f"{type(self).__name__} has no branches to scale.")

    def calibrate(
        self, normals: Iterable[Batch], *, false_alarm_rate: float, source: str
    ) -> Calibration:
        """Healthy score distribution and map range from held-out healthy images.

        Raises FitError for a score or map that is not finite.
        """
        scores: list[float] = []
        tops: list[Tensor] = []
        for batch in normals:
            prediction = self.predict_held_out(batch)
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
        return autocast(self.device, self.precision)

    def use_precision(self, precision: Precision) -> Self:
        """Predict in this precision from now on; frozen weights are cast once."""
        self.precision = precision
        for network in self.frozen():
            network.cast(AUTOCAST[precision] or torch.float32)
        return self

    def frozen(self) -> list[FrozenNetwork]:
        """The pretrained networks inside, which `fit` leaves as they are."""
        return [module for module in self.modules() if isinstance(module, FrozenNetwork)]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Take the shapes of a saved state where they depend on the training images."""

    def fitted_state(self) -> dict[str, Tensor]:
        """Everything that `fit` makes: the state without the frozen networks' weights."""
        frozen = tuple(
            f"{name}."
            for name, module in self.named_modules(remove_duplicate=False)
            if isinstance(module, FrozenNetwork)
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
