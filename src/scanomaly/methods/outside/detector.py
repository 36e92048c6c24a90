"""anomalib's models as detectors: our images, splits, features and files around their networks.

B images, S side in pixels
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Self, final

import numpy as np
import torch
from torch import Tensor

from scanomaly.config.anomalib_models import AnomalibConfig
from scanomaly.config.data import InputSpec
from scanomaly.config.fit import FitOptions
from scanomaly.errors import FitError
from scanomaly.maps import upsample
from scanomaly.methods.base import LEFT_OUT_IN_TURN, Detector
from scanomaly.methods.clip_detector import sampled
from scanomaly.methods.mvfa import owner_of
from scanomaly.methods.outside.building import RECIPES, build_module
from scanomaly.methods.outside.memory import AFTER, BEFORE, FILLS, Images, Take
from scanomaly.methods.outside.optimisation import own_optimisation, with_own_clipping
from scanomaly.records import Batch, Prediction
from scanomaly.training import (
    Criterion,
    History,
    Objective,
    TrainingData,
    optimise,
    training_device,
)

NO_STEPS = "all training images, without gradient steps"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lesson(NamedTuple):
    """A batch of normal images with anomalib's names: (B, 3, S, S), (B, S, S) and (B,)."""

    image: Tensor
    gt_mask: Tensor
    gt_label: Tensor


@final
class AnomalibDetector(Detector):
    """One of anomalib's models, which `config.model` names.

    Of the fit options, optimiser, betas, weight decay and schedule are not read: those are
    anomalib's own. The learning rate is that of its first group of parameters; others keep their
    ratio to it. Scores are the model's, not normalised by anything.
    """

    learns_from_normals = True
    owners: Tensor
    """int64: whose image each row of the memory shows."""
    mean: Tensor
    std: Tensor

    def __init__(self, config: AnomalibConfig, module: Any) -> None:
        """module: anomalib's Lightning module of that model."""
        super().__init__()
        self.config = config
        self.recipe = RECIPES[config.model.name]
        self.model = module.model
        self._module = (module,)  # in a tuple: its tensors are the model's, saved once
        self.register_buffer("owners", torch.zeros(0, dtype=torch.int64))
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @classmethod
    def left_out(cls, config: Any) -> str | None:
        return LEFT_OUT_IN_TURN if config.model.name in FILLS else None

    @classmethod
    def build(cls, config: Any) -> Self:
        """Raises ConfigError without anomalib or for what it cannot build, and WeightsError."""
        return cls(config, build_module(config))

    @property
    def input_spec(self) -> InputSpec:
        return self.config.input_spec

    # Training

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
        """Fill the memory, or train. Raises FitError for what anomalib's models cannot do."""
        if validation is not None:
            raise FitError(
                "fit.patience stops at the best validation loss, and anomalib's models have none; "
                "unset it."
            )
        self.train()
        self.use_precision("fp32").to(training_device(options)).use_precision(options.precision)
        name, size = self.config.model.name, options.micro_batch
        if name in FILLS:
            with torch.no_grad(), seeded(options.seed, self.device):
                owners = FILLS[name](self.model, self.config.model, self._images(train, size))
            self.owners = owners.to(self.device)
            return History((), (), 0, NO_STEPS)
        self._take(BEFORE, train, size)
        own = own_optimisation(self._module[0], options, by_step=self.recipe.by_step)
        objective = Objective(
            self,
            self._loss,
            train,
            criterion=criterion,
            partial=True,
            statistics=self._statistics(),
            own=own,
        )
        clipped = with_own_clipping(options, self._module[0])
        try:
            history = optimise(objective, clipped, run_dir, resume=resume)
        finally:
            self._module[0].trainer = None
        self.to(training_device(options))
        self._take(AFTER, train, size)
        return history

    def _images(self, train: TrainingData, size: int) -> Images:
        for batch in sampled(train, size, most=None):
            yield self._ready(batch.image), batch.ids

    @torch.no_grad()
    def _take(self, table: Mapping[str, Take], train: TrainingData, size: int) -> None:
        if self.config.model.name in table:
            table[self.config.model.name](self.model, self._images(train, size))

    def _lesson(self, batch: Batch) -> Lesson:
        image = self._ready(batch.image)
        blank = image.new_zeros((len(image), *image.shape[2:]))
        return Lesson(image, blank, image.new_zeros(len(image)))

    def _loss(self, batch: Batch) -> Tensor:
        module = self._module[0]
        try:
            found = module.training_step(self._lesson(batch), 0)
        except ValueError as error:  # such as too few positions for one step of CFLOW
            raise FitError(f"anomalib's {self.config.model.name} cannot train: {error}") from error
        loss: Tensor = found[self.recipe.loss].mean()
        return loss if module.automatic_optimization else loss.detach()

    def _statistics(self) -> tuple[str, ...]:
        kept = self.fitted_state()
        return tuple(name for name, _ in self.named_buffers() if name in kept)

    # Prediction

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """Raises FitError before it was fitted."""
        self.eval()
        self._require_fitted()
        image = self._ready(batch.image)
        at_once = self.recipe.at_once or len(image)
        return _joined([self._asked(few) for few in image.split(at_once)])

    def _asked(self, image: Tensor) -> Prediction:
        with self._precise():
            found = self.model(image)
        score: Tensor = found.pred_score.float().reshape(len(image))
        if found.anomaly_map is None:  # GANomaly: no pixel is told from another
            return Prediction(score, image.new_zeros(len(image), 1, *image.shape[2:]))
        maps: Tensor = found.anomaly_map.reshape(len(image), 1, *found.anomaly_map.shape[-2:])
        if maps.shape[2:] != image.shape[2:]:
            maps = upsample(maps, (image.shape[2], image.shape[3]))
        return Prediction(score, maps.float())

    @torch.no_grad()
    def predict_held_out(self, batch: Batch) -> Prediction:
        """Without what the memory has of each image; other models do not know whom they saw.

        Raises FitError if the memory has nothing else.
        """
        asking = [owner_of(name) for name in batch.ids]
        if not torch.isin(self.owners.cpu(), torch.tensor(asking)).any():
            return self.predict(batch)
        found = []
        for index, owner in enumerate(asking):
            with self._without(owner):
                image = batch.image[index : index + 1]
                found.append(self.predict(Batch(image, batch.ids[index : index + 1])))
        return _joined(found)

    @contextmanager
    def _without(self, owner: int) -> Iterator[None]:
        kept = self.owners != owner
        if not kept.any():
            raise FitError(
                "expected normal images besides the one left out, got 1 in the memory; give at "
                "least 2 normal images."
            )
        whole = {name: self.model.get_buffer(name) for name in self._memory()}
        try:
            for name, rows in whole.items():
                setattr(self.model, name, rows[kept])
            yield
        finally:
            for name, rows in whole.items():
                setattr(self.model, name, rows)

    def _memory(self) -> list[str]:
        """Buffers of the model with one row for each of `owners`."""
        names = (name for name, _ in self.model.named_buffers())
        return [name for name in names if name.startswith(self.recipe.memory)]

    def _ready(self, image: Tensor) -> Tensor:
        """On this device, and normalised where no backbone does it."""
        image = image.to(self.device)
        return (image - self.mean) / self.std if self.recipe.normalised else image

    def _precise(self) -> AbstractContextManager[Any]:
        """A backbone is held in its precision; what is computed from features stays in fp32."""
        return nullcontext() if self.frozen() else self.autocast()

    def _require_fitted(self) -> None:
        name = self.recipe.fitted
        if name is None:
            return
        if self.model.get_buffer(name).ndim == 0 or self.model.get_buffer(name).numel() == 0:
            raise FitError(
                f"{self.config.model.name} has seen no images yet; fit it, or load a run folder."
            )

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """What is empty until it is fitted takes the shape of what is saved."""
        for name, buffer in list(self.named_buffers()):
            saved = state.get(name)
            if saved is not None and (buffer.ndim == 0 or buffer.numel() == 0):
                parent, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(parent), leaf, buffer.new_zeros(saved.shape))


def _joined(found: Sequence[Prediction]) -> Prediction:
    return Prediction(
        torch.cat([one.score for one in found]), torch.cat([one.anomaly_map for one in found])
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of torch and of numpy, which anomalib's coreset draws too; then as before."""
    numbers = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)
