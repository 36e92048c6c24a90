"""Frozen features of a training set, computed once and kept in files mapped into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import default_collate

from scanomaly.records import Draw
from scanomaly.training import TrainingData

logger = logging.getLogger(__name__)


class CachedFeatures:
    """`compute(batch)` of every image of `data`, without augmentation; indexed by draws.

    compute returns any nest of tensors with the images along the first axis. One file per tensor
    under `folder`; several processes on one machine each write their own.
    """

    def __init__(
        self,
        data: TrainingData,
        compute: Callable[[Any], Any],
        folder: Path,
        batch_size: int,
    ) -> None:
        self._count = len(data)
        self._tensors: list[Tensor] = []
        own = folder.with_name(f"{folder.name}-{torch.initial_seed()}-{id(self)}")
        own.mkdir(parents=True, exist_ok=True)
        for start, features in self._computed(data, compute, batch_size):
            leaves, self._structure = tree_flatten(features)
            if not self._tensors:
                self._tensors = [self._mapped(own / str(i), leaf) for i, leaf in enumerate(leaves)]
            for kept, leaf in zip(self._tensors, leaves, strict=True):
                kept[start : start + leaf.shape[0]] = leaf.cpu()
        size = sum(t.numel() * t.element_size() for t in self._tensors) / 2**20
        logger.info("cached frozen features of %d images: %.0f MiB", self._count, size)

    @staticmethod
    def _computed(
        data: TrainingData, compute: Callable[[Any], Any], batch_size: int
    ) -> Iterator[tuple[int, Any]]:
        for start in range(0, len(data), batch_size):
            stop = min(start + batch_size, len(data))
            items = [data[Draw(None, index)] for index in range(start, stop)]
            yield start, compute(data.collate(items))

    def _mapped(self, file: Path, like: Tensor) -> Tensor:
        shape = (self._count, *like.shape[1:])
        size = self._count * like[0].numel()
        return torch.from_file(str(file), shared=True, size=size, dtype=like.dtype).view(shape)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, draw: Draw) -> Any:
        return tree_unflatten([tensor[draw.index] for tensor in self._tensors], self._structure)

    def collate(self, items: list[Any]) -> Any:
        return default_collate(items)
