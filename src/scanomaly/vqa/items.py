"""Questions about triples as training data for the gradient loop.

B triples, N texts (B of them with one question for each triple), T tokens, S side of an image
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from scanomaly.config.vqa import VqaDataConfig
from scanomaly.data.augment import seeded
from scanomaly.data.mivqa import VqaItem
from scanomaly.errors import DataError
from scanomaly.records import Draw
from scanomaly.vqa.images import (
    Images,
    Pictures,
    evaluation_images,
    mirrored,
    read_pictures,
    training_images,
)

IGNORED = -100
"""Label of a position that is no target."""
MIRROR_STREAM = 3
"""Of random numbers, behind those of the three pictures."""
SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
KEPT_BYTES = 1 << 28
"""Resized pictures held in memory by each set of items: 256 MiB."""

Packed = tuple[Tensor, Tensor, Tensor]
"""ids, attention and labels of one text: int64 (T,) each."""
Pack = Callable[[str, str], Packed]
"""Question and answer to their tokens, every text to the same T."""


@dataclass(frozen=True, slots=True)
class VqaBatch:
    """Triples with texts about them.

    images: float (B, 3, S, S) each, in -1..1. ids, attention, labels: int64 (N, T); labels are
    IGNORED where there is no target. triple: int64 (N,), which of the B triples a text is about.
    """

    images: Images
    ids: Tensor
    attention: Tensor
    labels: Tensor
    triple: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on `device`."""
        image, anomaly_map, reconstruction = (image.to(device) for image in self.images)
        return type(self)(
            images=(image, anomaly_map, reconstruction),
            ids=self.ids.to(device),
            attention=self.attention.to(device),
            labels=self.labels.to(device),
            triple=self.triple.to(device),
        )


@dataclass(frozen=True, slots=True)
class Example:
    """One triple, (3, S, S) each, with one text about it or several."""

    images: Images
    texts: tuple[Packed, ...]


def other_side(item: VqaItem) -> VqaItem:
    """What the question and its answer are in a mirror."""
    question, answer = (
        re.sub(rf"\b({'|'.join(SIDES)})\b", lambda found: SIDES[found[0]], text)
        for text in (item.question, item.answer)
    )
    return replace(item, question=question, answer=answer)


def by_triple(items: Iterable[VqaItem]) -> dict[tuple[Path, Path, Path], list[VqaItem]]:
    """The items of each triple of files, in order of appearance."""
    found: dict[tuple[Path, Path, Path], list[VqaItem]] = {}
    for item in items:
        found.setdefault(item.pictures, []).append(item)
    return found


class VqaItems(Dataset[Example]):
    """Each question of `items`, or with `data.items` triples each triple with all its questions.

    A Draw of an epoch is augmented, a plain index never. Raises DataError for a text whose
    question leaves no token for its answer.
    """

    def __init__(
        self, items: Sequence[VqaItem], data: VqaDataConfig, pack: Pack, seed: int = 0
    ) -> None:
        self.data = data
        self.seed = seed
        self._examples = _GROUPINGS[data.items](items)
        self._texts = {item.id: _packed(item, pack) for item in items}
        self._other_sides = (
            {item.id: _packed(other_side(item), pack) for item in items} if data.mirror else {}
        )
        self._pictures: dict[tuple[Path, Path, Path], Pictures] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, draw: Draw | int) -> Example:
        index = draw.index if isinstance(draw, Draw) else draw
        epoch = draw.epoch if isinstance(draw, Draw) else None
        items = self._examples[index]
        pictures = self._read(items[0])
        if epoch is None:
            return self._example(evaluation_images(pictures, self.data), items, self._texts)
        seed = (self.seed, epoch, index)
        images = training_images(pictures, self.data, seed)
        if self.data.mirror and _chance(*seed, MIRROR_STREAM):
            return self._example(mirrored(images), items, self._other_sides)
        return self._example(images, items, self._texts)

    def _example(
        self, images: Images, items: Sequence[VqaItem], texts: Mapping[str, Packed]
    ) -> Example:
        return Example(images, tuple(texts[item.id] for item in items))

    def collate(self, examples: Sequence[Example]) -> VqaBatch:
        return collate(examples)

    def _read(self, item: VqaItem) -> Pictures:
        """The resized pictures, from memory where there was room for them."""
        kept = self._pictures.get(item.pictures)
        if kept is not None:
            return kept
        pictures = read_pictures(item.pictures, self.data)
        size = sum(picture.nbytes for picture in pictures)
        if self._bytes + size <= KEPT_BYTES:
            self._pictures[item.pictures] = pictures
            self._bytes += size
        return pictures


def _chance(*seed: int) -> bool:
    """One in two; the same for the same numbers."""
    return bool(torch.rand((), generator=seeded(*seed)) < 0.5)


_GROUPINGS: dict[str, Callable[[Sequence[VqaItem]], list[list[VqaItem]]]] = {
    "questions": lambda items: [[item] for item in items],
    "triples": lambda items: list(by_triple(items).values()),
}


def _packed(item: VqaItem, pack: Pack) -> Packed:
    ids, attention, labels = pack(item.question, item.answer)
    if bool((labels == IGNORED).all()):
        raise DataError(
            f"{item.id}: its question alone fills all {len(ids)} tokens and leaves none for the "
            "answer; shorten it, or raise config.max_tokens."
        )
    return ids, attention, labels


def collate(examples: Sequence[Example]) -> VqaBatch:
    """Examples to a batch, without the columns that are padding in every text."""
    image, anomaly_map, reconstruction = (
        torch.stack(list(images))
        for images in zip(*(example.images for example in examples), strict=True)
    )
    texts = [text for example in examples for text in example.texts]
    ids, attention, labels = (torch.stack(list(part)) for part in zip(*texts, strict=True))
    used = ((attention != 0) | (labels != IGNORED)).any(dim=0)  # (T,)
    length = int(used.nonzero().max()) + 1
    counts = torch.tensor([len(example.texts) for example in examples])
    return VqaBatch(
        images=(image, anomaly_map, reconstruction),
        ids=ids[:, :length],
        attention=attention[:, :length],
        labels=labels[:, :length],
        triple=torch.arange(len(examples)).repeat_interleave(counts),
    )
