"""Run folder and manifest to Parquet shards: what `score` does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanomaly.config.fit import Precision
from scanomaly.config.run import load_run
from scanomaly.data.streaming import StreamedManifest
from scanomaly.errors import DataError
from scanomaly.scoring.job import ScoringError, ScoringJob, begun, detector_digest
from scanomaly.scoring.local import devices_for, score_here, score_in_processes
from scanomaly.scoring.progress import Meter, Progress
from scanomaly.scoring.shards import (
    MAPS,
    SHARDS,
    Counts,
    Shard,
    ShardScorer,
    Tick,
    counts_of,
    errors_in,
    shard_file,
)

logger = logging.getLogger(__name__)

SHARD_ROWS = 2000
"""Ten million images are 5,000 files; a killed worker loses seconds on a GPU."""
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """workers: None is one per device. shard_rows: None is what the folder was begun with.

    ray: address of a cluster, or auto; None is this machine. retry_failed: shards with images that
    could not be scored are scored again.
    """

    workers: int | None = None
    shard_rows: int | None = None
    maps: bool = False
    device: str = "auto"
    precision: Precision = "fp32"
    ray: str | None = None
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """rows: of the manifest, each in exactly one shard. failed: those with an error for a score."""

    rows: int
    failed: int
    examples: tuple[str, ...]
    """`id: error` of the first that failed."""
    images: int
    """Scored by this call, in `seconds`."""
    seconds: float


def score_manifest(
    run: Path,
    manifest: Path,
    out: Path,
    options: ScoringOptions | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Score every row into out/shards/*.parquet, or go on where a call was stopped.

    A shard is written once all its rows are known, so that a kill loses the running shards only
    and no row is ever there twice. Memory does not grow with the manifest, but for 8 bytes a row
    while ids are compared. Raises DataError for a manifest that cannot be used, ScoringError for a
    folder that was begun with something else and for workers that are lost, and what loading a run
    raises.
    """
    options = options or ScoringOptions()
    load_run(run)
    stream = StreamedManifest(manifest)
    job = _job(run, stream, out, options)
    scorer = ShardScorer(
        run.absolute(), job.detector, out.absolute(), options.device, options.precision, job.maps
    )
    finished = _finished(job, out, options.retry_failed)
    done = sum(job.rows_in(index) for index in finished)
    if finished:
        logger.info("%s: %d of %d shards are finished.", out, len(finished), job.shards)
    meter = Meter(done, job.rows, progress)
    open_shards = (
        Shard(index, stream.rows_of(table))
        for index, table in stream.shards(job.shard_rows)
        if index not in finished
    )
    if len(finished) < job.shards:
        for _ in _execute(open_shards, scorer, options, meter.tick):
            pass
    return _summary(job, out, meter)


def _job(run: Path, stream: StreamedManifest, out: Path, options: ScoringOptions) -> ScoringJob:
    """The folder's job, or a new one once the whole manifest was found in order."""
    asked: dict[str, Any] = {
        "detector": detector_digest(run),
        "manifest": stream.digest(),
        "precision": options.precision,
        "maps": options.maps,
    }
    if options.shard_rows is not None:
        if options.shard_rows < 1:
            raise ScoringError(f"expected at least one row a shard, got {options.shard_rows}.")
        asked["shard_rows"] = options.shard_rows
    found = begun(out, asked)
    if found is not None:
        return found
    rows = stream.check()
    job = ScoringJob(**{"shard_rows": SHARD_ROWS, **asked}, rows=rows)
    job.save(out)
    return job


def _finished(job: ScoringJob, out: Path, retry_failed: bool) -> frozenset[int]:
    """Shards that are whole; without those that hold errors where they are tried again."""
    found = ((index, counts_of(shard_file(out, index))) for index in range(job.shards))
    return frozenset(
        index
        for index, counts in found
        if counts is not None
        and counts.rows == job.rows_in(index)
        and not (retry_failed and counts.failed)
    )


def _execute(
    shards: Iterator[Shard], scorer: ShardScorer, options: ScoringOptions, tick: Tick
) -> Iterator[Counts]:
    if options.ray is not None:
        from scanomaly.scoring.on_ray import score_on_ray

        return score_on_ray(shards, scorer, options.ray, options.workers, tick)
    devices = devices_for(options.device, options.workers)
    if len(devices) == 1:
        return score_here(shards, scorer, tick)
    return score_in_processes(shards, scorer, devices, tick)


def _summary(job: ScoringJob, out: Path, meter: Meter) -> Summary:
    """Raises ScoringError unless every row is there, DataError if no image could be scored."""
    failed, examples = 0, list[str]()
    for index in range(job.shards):
        file = shard_file(out, index)
        counts = counts_of(file)
        if counts is None or counts.rows != job.rows_in(index):
            raise ScoringError(
                f"{file}: expected {job.rows_in(index)} rows, found "
                f"{counts.rows if counts else 'no whole file'}; the manifest changed while it was "
                "read, or workers write where this machine does not see it. Run it again."
            )
        failed += counts.failed
        if counts.failed and len(examples) < EXAMPLES:
            examples += [f"{name}: {error}" for name, error in errors_in(file)]
    _remove_halves(out)
    if failed == job.rows:
        raise DataError(
            f"not one of {job.rows} images could be scored ({examples[0]}); paths are relative to "
            "the manifest's folder. --retry-failed tries again."
        )
    return Summary(
        job.rows, failed, tuple(examples[:EXAMPLES]), images=meter.images, seconds=meter.seconds
    )


def _remove_halves(out: Path) -> None:
    """Temporary files that killed workers left."""
    for folder in (out, out / SHARDS, out / MAPS):
        for half in folder.glob(".*.part"):
            half.unlink(missing_ok=True)
