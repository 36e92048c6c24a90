"""Fitted detector x images -> clouds of labelled vectors, one for each place in a figure.

B images, L patches, h w patch grid, E width, N points
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scanomaly.data.manifest import Manifest
from scanomaly.errors import ConfigError, DataError
from scanomaly.inference import FittedDetector
from scanomaly.methods import METHODS, Detector
from scanomaly.records import Batch, Embedding

Kind = Literal["images", "patches"]

PATCHES_OF_A_CLASS = 8
"""Of one image, so that no image decides a figure and abnormal patches are not lost in it."""
MOSTLY = 0.5
"""Share of a patch's pixels that must be abnormal; less, but more than none, is left out."""


@dataclass(frozen=True)
class Cloud:
    """The points of one place: `figure`, `row` and `column`, as the method names them.

    vectors: float32 (N, E), unit length. series: the kind of each point. image: index (N,) among
    the images shown. label: bool (N,), of the image or patch.
    """

    figure: str
    row: str
    column: str
    vectors: NDArray[np.float32]
    series: tuple[str, ...]
    image: NDArray[np.int64]
    label: NDArray[np.bool_]


class Chosen(NamedTuple):
    """What one embedding gives. vectors: (n, E). image: index (n,) in the batch. label: (n,)."""

    vectors: Tensor
    image: Tensor
    label: Tensor


def clouds(fitted: FittedDetector, shown: Manifest, kind: Kind, seed: int) -> list[Cloud]:
    """One batch of features is in memory at a time, besides the points.

    Raises ConfigError where the method has nothing (of this kind) to show, and DataError where
    patches have no masks.
    """
    require_embeddings(fitted)
    if kind == "patches" and not shown.has_masks:
        raise DataError(
            f"{shown.dataset}: expected masks to tell abnormal patches, found none "
            f"({shown.source}); leave out --patches."
        )
    parts: dict[tuple[str, str, str], list[tuple[str, Chosen]]] = {}
    first = 0
    for batch in fitted.batches(shown, with_masks=kind == "patches"):
        for embedding in fitted.detector.embeddings(batch):
            chosen = KINDS[kind](embedding, batch, np.random.default_rng([seed, first]))
            if chosen is not None:
                place = (embedding.figure, embedding.row, embedding.column)
                moved = chosen._replace(image=chosen.image + first)
                parts.setdefault(place, []).append((embedding.series, moved))
        first += len(batch)
    if not parts:
        raise ConfigError(
            f"{fitted.run.method} shows no single {kind}, only whole images; leave out --patches."
        )
    return [_joined(place, pieces) for place, pieces in parts.items()]


def require_embeddings(fitted: FittedDetector) -> None:
    """Raises ConfigError naming the methods that have embeddings to show."""
    if type(fitted.detector).embeddings is not Detector.embeddings:
        return
    able = [name for name, one in METHODS.items() if one.embeddings is not Detector.embeddings]
    raise ConfigError(
        f"{fitted.run.method} has no embeddings to show; figures can be drawn of runs of "
        f"{', '.join(able)}."
    )


def _images(embedding: Embedding, batch: Batch, random: np.random.Generator) -> Chosen:
    """Every image, as the mean over its patches."""
    assert batch.label is not None  # only labelled images are shown
    vectors = embedding.vectors
    pooled = vectors.mean(dim=1) if vectors.ndim == 3 else vectors
    return Chosen(pooled, torch.arange(len(batch)), batch.label)


def _patches(embedding: Embedding, batch: Batch, random: np.random.Generator) -> Chosen | None:
    """Some patches of each class of every image whose mask is known; None where there are none."""
    if embedding.vectors.ndim == 2 or batch.mask is None:
        return None
    side = isqrt(embedding.vectors.shape[1])
    share = F.adaptive_avg_pool2d(batch.mask.float(), side).flatten(1).cpu()  # (B, L)
    known = torch.ones(len(batch)) if batch.has_mask is None else batch.has_mask.cpu()
    usable = ((share == 0) | (share > MOSTLY)) & known[:, None].bool()
    picked = list(_picked(usable, share > MOSTLY, random))
    image, patch = torch.tensor(picked, dtype=torch.int64).reshape(-1, 2).unbind(dim=1)
    return Chosen(embedding.vectors[image, patch], image, share[image, patch] > MOSTLY)


def _picked(
    usable: Tensor, abnormal: Tensor, random: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """(image, patch) of up to PATCHES_OF_A_CLASS of each class; both bool (B, L)."""
    for index, (use, bad) in enumerate(zip(usable, abnormal, strict=True)):
        for of_class in (use & ~bad, use & bad):
            places = of_class.nonzero()[:, 0].numpy()
            few = random.permutation(places)[:PATCHES_OF_A_CLASS]
            yield from ((index, int(place)) for place in sorted(few))


KINDS: Mapping[Kind, Callable[[Embedding, Batch, np.random.Generator], Chosen | None]]
KINDS = {"images": _images, "patches": _patches}
"""What a point is -> how an embedding becomes points."""


def _joined(place: tuple[str, str, str], pieces: Sequence[tuple[str, Chosen]]) -> Cloud:
    vectors = torch.cat([F.normalize(one.vectors.float(), dim=1).cpu() for _, one in pieces])
    return Cloud(
        *place,
        vectors=vectors.numpy(),
        series=tuple(name for name, one in pieces for _ in range(len(one.vectors))),
        image=torch.cat([one.image for _, one in pieces]).numpy(),
        label=torch.cat([one.label.cpu() for _, one in pieces]).numpy(),
    )
