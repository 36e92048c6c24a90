"""Simulated healthy images with their facts, made once and then read from the disk's cache.

N images, S side in pixels
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scanomaly.data.phantom.fields import ImageArray
from scanomaly.data.phantom.simulate import PRE_TRAINING
from scanomaly.data.phantom.styles.style import SLICES, Style
from scanomaly.files import write_file, write_text
from scanomaly.processes import end_with_parent

logger = logging.getLogger(__name__)

PATIENTS_AT_ONCE = 8

Facts = dict[str, str]


class Series(NamedTuple):
    """Images of one style: uint8 (N, S, S) or (N, S, S, 3), and what is true of each."""

    images: ImageArray
    facts: list[Facts]


@dataclass(frozen=True, slots=True)
class Part:
    """`count` images of the patients from number `first` on, at a seed."""

    seed: int
    first: int
    count: int

    @property
    def after(self) -> int:
        """Number of the first patient that is not in it."""
        return self.first + -(-self.count // SLICES)


def series(style: Style[Any], part: Part, folder: Path, workers: int = 1) -> Series:
    """Healthy images, made unless `folder` holds them.

    The patients are in no data set of `scanomaly phantom` at any seed, and others at every seed.
    """
    file = folder / f"{style.name}-{part.seed}-{part.first}-{part.count}.npy"
    beside = file.with_suffix(".json")
    if not beside.is_file():
        logger.info("simulating %d images of %s", part.count, style.title)
        made = _made(style, part, workers)
        write_file(file, partial(_save_array, made.images))
        write_text(beside, json.dumps(made.facts))  # last: it says that the images are complete
    facts: list[Facts] = json.loads(beside.read_text(encoding="utf-8"))
    return Series(np.load(file, mmap_mode="r", allow_pickle=False), facts)


def _save_array(images: ImageArray, file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, images, allow_pickle=False)


def _made(style: Style[Any], part: Part, workers: int) -> Series:
    patients = range(part.first, part.after)
    with _mapping(workers) as each:
        made = chain.from_iterable(each(partial(_patient, style, part.seed), patients))
        pairs = list(islice(made, part.count))
    return Series(np.stack([image for image, _ in pairs]), [facts for _, facts in pairs])


def _patient(style: Style[Any], seed: int, index: int) -> list[tuple[ImageArray, Facts]]:
    subject = style.subject(seed, index, slices=SLICES, family=PRE_TRAINING)
    slices = (style.healthy(subject, number) for number in range(SLICES))
    return [(slice_.image, dict(slice_.facts)) for slice_ in slices]


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map`, in several processes where asked."""
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        yield partial(pool.map, chunksize=PATIENTS_AT_ONCE)
