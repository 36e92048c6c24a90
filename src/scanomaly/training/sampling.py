"""Which images an epoch draws, in which order, in which process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from scanomaly.config.fit import FitOptions
from scanomaly.errors import FitError
from scanomaly.records import Draw
from scanomaly.training.objective import TrainingData


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """One seed per (run, epoch, process); an epoch repeats exactly after a restart."""
    return (seed * 1_000_003 + epoch) * 1_009 + rank


class EpochSampler(Sampler[list[Draw]]):
    """Micro-batches of one process, from a permutation that depends only on (seed, epoch).

    The micro-batches that all processes use in one optimiser step make up one slice of the
    permutation, so numbers do not depend on devices or accumulation. The last, incomplete
    global batch is dropped.
    """

    def __init__(
        self, count: int, options: FitOptions, rank: int = 0, world: int = 1, epoch: int = 0
    ) -> None:
        if count < options.batch_size:
            raise FitError(
                f"{count} training items are fewer than one batch of {options.batch_size}; "
                f"use --set fit.batch_size={count} or smaller."
            )
        self.count = count
        self.options = options
        self.rank, self.world = rank, world
        self.epoch = epoch
        self.steps = count // options.batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.options.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(epoch_seed(self.options.seed, self.epoch))
        order = torch.randperm(self.count, generator=generator).tolist()
        own = order[: self.steps * self.options.batch_size][self.rank :: self.world]
        size = self.options.micro_batch
        for start in range(0, len(own), size):
            yield [Draw(self.epoch, index) for index in own[start : start + size]]


class InOrder(Sampler[list[Draw]]):
    """Validation images, once each, without augmentation."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, self.count, self.size):
            yield [Draw(None, i) for i in range(start, min(start + self.size, self.count))]


class MicroBatches(Dataset[Any]):
    """Indexed by the draws of one micro-batch."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    def __getitem__(self, draws: list[Draw]) -> Any:
        return self.data.collate([self.data[draw] for draw in draws])


def as_it_is(items: Any) -> Any:
    return items
