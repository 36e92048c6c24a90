"""Every file of a set decoded once, in several processes; the facts that checks look at."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2

from scanomaly.data.manifest import Manifest
from scanomaly.data.rows import Row
from scanomaly.doctor.facts import Facts, measure
from scanomaly.doctor.findings import SHOWN_FILES
from scanomaly.doctor.sources import Source
from scanomaly.errors import DataError
from scanomaly.processes import end_with_parent

FILES_AT_ONCE = 32
"""Files that a process takes at a time."""
WORTH_A_PROCESS = 200
"""Fewer files than this are measured before a second process has started."""

Each = Callable[[Iterable[Path]], Iterator[Facts]]


@dataclass(frozen=True, slots=True)
class Survey:
    """A set and what its files hold. facts: of every image, mask and companion."""

    source: Source
    facts: Mapping[Path, Facts]

    @property
    def manifest(self) -> Manifest:
        return self.source.manifest

    def images(self) -> list[tuple[Row, Facts]]:
        """Rows whose image can be read."""
        found = ((row, self.facts[row.path]) for row in self.manifest)
        return [(row, facts) for row, facts in found if not facts.error]

    def masks(self) -> list[tuple[Row, Facts, Facts]]:
        """(row, its image, its mask) where both can be read."""
        return [
            (row, facts, self.facts[row.mask])
            for row, facts in self.images()
            if row.mask is not None and not self.facts[row.mask].error
        ]

    def some(self, paths: Iterable[Path]) -> tuple[str, ...]:
        """The first few of `paths`, as they are called from the set's folder on."""
        return tuple(map(self.name, islice(paths, SHOWN_FILES)))

    def name(self, path: Path) -> str:
        root = self.source.root if self.source.root.is_dir() else self.source.root.parent
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def files_of(source: Source) -> list[Path]:
    """Images, masks and companions, each once."""
    masks = (row.mask for row in source.manifest if row.mask is not None)
    images = (row.path for row in source.manifest)
    return list(dict.fromkeys([*images, *masks, *source.companions]))


def survey(source: Source, files: Sequence[Path], each: Each, seen: Callable[[], None]) -> Survey:
    """Measure `files` through `each`; `seen` is called after every one. Raises DataError."""
    facts: dict[Path, Facts] = {}
    for measured in each(files):
        facts[measured.path] = measured
        seen()
    return Survey(source, facts)


def available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Measuring:
    """`measure` over many files: in this process, or in `workers` others. A context manager."""

    def __init__(self, workers: int | None, files: int) -> None:
        """workers: None takes the cores there are, and no process for a few files."""
        wanted = available_cores() if workers is None else workers
        alone = wanted < 2 or (workers is None and files < WORTH_A_PROCESS)
        self._pool = None if alone else _pool(wanted)

    def __enter__(self) -> Each:
        return _alone if self._pool is None else self._together

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _together(self, files: Iterable[Path]) -> Iterator[Facts]:
        assert self._pool is not None
        try:
            yield from self._pool.map(measure, files, chunksize=FILES_AT_ONCE)
        except BrokenProcessPool as error:
            raise DataError(
                "a process that decodes images was ended from outside, most likely for want of "
                "memory; use fewer with --workers 1, or look for very large images."
            ) from error


def _alone(files: Iterable[Path]) -> Iterator[Facts]:
    return map(measure, files)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare
    )


def _prepare() -> None:
    """In every worker: one thread each, Ctrl-C left to the main process, silence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    cv2.setNumThreads(1)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
