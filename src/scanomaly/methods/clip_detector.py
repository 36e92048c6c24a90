"""What MVFA and IQE-CLIP share: a frozen CLIP, training on labels, and branches with ranges.

A branch is a map or a score with units of its own, such as a probability or a distance. Published
protocols bring branches together by their extremes over the whole test set; here the extremes are
fitted on training images and saved, so that one image alone has a score.

B images, S side in pixels
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from scanomaly.backbones.clip import Clip, ClipText, ClipVision, build_clip
from scanomaly.config.clip import ClipMethodConfig
from scanomaly.config.data import InputSpec
from scanomaly.config.fit import FitOptions
from scanomaly.errors import ConfigError, FitError
from scanomaly.methods.base import Detector, PaperProtocol
from scanomaly.methods.feature_cache import CachedFeatures
from scanomaly.records import Batch, Draw, Prediction
from scanomaly.training import (
    Criterion,
    History,
    Objective,
    TrainingData,
    optimise,
    training_device,
)

SAMPLED_IMAGES = 512
"""Training images, evenly spread, from which ranges are taken and where labels are looked for."""

Branches = Mapping[str, Tensor]
"""Name -> maps (B, 1, S, S) or scores (B,), in the branch's own units."""


class ClipDetector(Detector):
    """Gives un-normalised branches, and fuses them by the ranges it holds."""

    paper: ClassVar[PaperProtocol] = PaperProtocol(ranges_from_test=True, chosen_on_test=True)
    teaches_parts: ClassVar[bool] = False
    """Whether a batch may leave some parameters without a gradient."""
    branch_ranges: Tensor
    """(branches, 2): lowest and highest value of each, in the order of `branches`."""

    def __init__(self, clip: Clip, side: int, branches: Sequence[str]) -> None:
        super().__init__()
        self.vision: ClipVision = clip.vision
        self.text: ClipText = clip.text
        self.side = side
        self.branches = tuple(branches)
        self.register_buffer("branch_ranges", torch.tensor([[0.0, 1.0]] * len(self.branches)))

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(side=self.side, interpolation="bicubic", library="pillow")

    # Training

    @abstractmethod
    def lesson(self, batch: Batch) -> Any:
        """What a labelled batch teaches: a named tuple of tensors on this detector's device.

        Images along the first axis. All that frozen parts see: what a feature cache keeps.
        """

    @abstractmethod
    def loss(self, lesson: Any) -> Tensor:
        """The scalar to minimise of one micro-batch's lesson: a mean over images."""

    @abstractmethod
    def lesson_branches(self, lesson: Any) -> Branches:
        """Branches of training images, as if they had not been trained on where that can be."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Beginnings of parameters' names -> learning rates of their own."""
        return {}

    def prepare(self, train: TrainingData, size: int) -> None:
        """Before training, in fp32. Raises FitError for images without labels or of one class."""
        labels = _labels(sampled(train, size))
        if len(labels.unique()) < 2:  # of a large set the sample may lack the rarer class
            labels = _labels(sampled(train, size, most=None))
        require_both_classes(labels)

    def complete(self, data: TrainingData, size: int) -> None:
        """All that is fitted from images by other means than gradients: here the ranges.

        data: the training images, or their lessons.
        """
        self.eval()
        raws = map(self.lesson_branches, map(self.as_lesson, sampled(data, size)))
        self.branch_ranges.copy_(self.extremes(raws))

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
        """Train, then complete in fp32. Raises FitError for unlabelled images or one class."""
        self.train()
        device, size = training_device(options), options.micro_batch
        self.use_precision("fp32").to(device)
        self.prepare(train, size)
        self.use_precision(options.precision)
        data, held = train, validation
        if options.cache_features:
            cache = run_dir / "cache"
            data = CachedFeatures(train, self.lesson, cache / "train", size)
            if validation is not None:
                held = CachedFeatures(validation, self.lesson, cache / "validation", size)

        @torch.no_grad()
        def complete() -> None:
            self.to(device).use_precision("fp32")
            self.complete(data if options.precision == "fp32" else train, size)
            self.use_precision(options.precision)

        if criterion is not None:
            criterion = self._when_complete(criterion, data, size, complete)
        objective = Objective(
            self,
            lambda items: self.loss(self.as_lesson(items)),
            data,
            held,
            self.rates,
            criterion,
            partial=self.teaches_parts,
        )
        try:
            history = optimise(objective, options, run_dir, resume=resume)
            complete()
            return history
        finally:
            shutil.rmtree(run_dir / "cache", ignore_errors=True)

    def as_lesson(self, items: Any) -> Any:
        """The lesson of a batch, or one that a cache kept."""
        if isinstance(items, Batch):
            return self.lesson(items)
        return tree_map(lambda part: part.to(self.device), items)

    def _when_complete(
        self, criterion: Criterion, data: TrainingData, size: int, complete: Callable[[], None]
    ) -> Criterion:
        """complete: as at the end of `fit`; in between, the precision of training will do."""

        @torch.no_grad()
        def value() -> float:
            self.complete(data, size)
            return criterion.value()

        def at_last() -> None:
            complete()
            criterion.at_last()

        return replace(criterion, value=value, at_last=at_last)

    # Prediction

    @abstractmethod
    def raw_branches(self, batch: Batch, held_out: bool = False) -> Branches:
        """Every branch of `branches`, and whatever else figures show, un-normalised, in fp32.

        held_out: as if the batch's images had not been trained on, where the method can.
        """

    @abstractmethod
    def fuse(self, raw: Branches) -> Prediction:
        """Branches, brought together by the current ranges."""

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        self.eval()
        return self.fuse(self.raw_branches(batch))

    @torch.no_grad()
    def predict_held_out(self, batch: Batch) -> Prediction:
        self.eval()
        return self.fuse(self.raw_branches(batch, held_out=True))

    def scaled(self, raw: Branches) -> dict[str, Tensor]:
        """Branches with their ranges on 0..1, not clipped; one without a range becomes 0.

        What is no branch stays as it is.
        """
        low, high = self.branch_ranges.unbind(dim=1)
        extent = high - low
        found = dict(raw)
        for index, name in enumerate(self.branches):
            shifted = raw[name] - low[index]
            unit = shifted / extent[index].clamp_min(torch.finfo(torch.float32).tiny)
            found[name] = torch.where(extent[index] > 0, unit, torch.zeros_like(unit))
        return found

    def extremes(self, raws: Iterable[Branches]) -> Tensor:
        """Lowest and highest value of each branch: (branches, 2). At least one batch is needed."""
        found: Tensor | None = None
        for raw in raws:
            pairs = torch.stack([torch.stack(raw[name].aminmax()) for name in self.branches])
            if found is not None:
                low, high = torch.minimum(found, pairs)[:, 0], torch.maximum(found, pairs)[:, 1]
                pairs = torch.stack([low, high], dim=1)
            found = pairs
        if found is None:
            raise ValueError("expected images to take the ranges of branches from, got none.")
        return found

    @torch.no_grad()
    def ranges_of(self, batches: Iterable[Batch]) -> Tensor:
        """Extremes of each branch over these images: (branches, 2)."""
        self.eval()
        return self.extremes(self.raw_branches(batch) for batch in batches)

    @contextmanager
    def scaled_to(self, batches: Iterable[Batch]) -> Iterator[None]:
        """While it lasts, branches are scaled by their extremes over these images (protocols)."""
        fitted = self.branch_ranges.clone()
        try:
            self.branch_ranges.copy_(self.ranges_of(batches))
            yield
        finally:
            self.branch_ranges.copy_(fitted)


def load_clip(config: ClipMethodConfig) -> Clip:
    """Raises WeightsError when weights are not here, ConfigError for blocks that it lacks."""
    clip = build_clip(config.backbone)
    if config.blocks[-1] >= clip.vision.depth:
        raise ConfigError(
            f"config.blocks={config.blocks} asks for blocks of a CLIP that has "
            f"{clip.vision.depth}; choose from 0 to {clip.vision.depth - 1}."
        )
    return clip


def sampled(data: TrainingData, size: int, most: int | None = SAMPLED_IMAGES) -> Iterator[Any]:
    """Evenly spread items of `data` (None: all), un-augmented, collated `size` at a time."""
    count = len(data)
    wanted = count if most is None else min(count, most)
    draws = [Draw(None, place * count // wanted) for place in range(wanted)]
    for start in range(0, wanted, size):
        yield data.collate([data[draw] for draw in draws[start : start + size]])


def _labels(batches: Iterable[Batch]) -> Tensor:
    """bool (N,). Raises FitError for images without labels."""
    return torch.cat([require_labels(batch) for batch in batches])


def require_labels(batch: Batch) -> Tensor:
    """bool (B,). Raises FitError for images without labels."""
    if batch.label is None:
        raise FitError(
            f"expected normal and abnormal training images with labels, got {batch.ids[0]!r} "
            "and others without; set data.supervision to few_shot or zero_shot."
        )
    return batch.label


def require_both_classes(labels: Tensor) -> None:
    """Raises FitError unless some of bool (N,) are True and some are False."""
    abnormal = int(labels.sum())
    if abnormal in (0, len(labels)):
        raise FitError(
            f"expected normal and abnormal training images, got {len(labels) - abnormal} normal "
            f"and {abnormal} abnormal ones; give a data set with both."
        )


def known_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """(bool (B, 1, S, S), zeros where unknown; bool (B,): whose mask is known)."""
    count, device = len(batch), batch.image.device
    if batch.mask is None:
        blank = batch.image.new_zeros((count, 1, *batch.image.shape[2:]), dtype=torch.bool)
        return blank, torch.zeros(count, dtype=torch.bool, device=device)
    if batch.has_mask is None:
        return batch.mask, torch.ones(count, dtype=torch.bool, device=device)
    return batch.mask, batch.has_mask
