"""The verb of large archives: score."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from scanomaly.cli.app import DeviceOption, PrecisionOption, app, progress_bar

LOG_SECONDS = 30.0
logger = logging.getLogger(__name__)


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    manifest: Annotated[
        Path, typer.Argument(help="CSV or Parquet: path, and where known id, patient, label.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where shards go, or go on.")],
    ray: Annotated[
        str | None, typer.Option("--ray", help="auto or ADDRESS: workers on a Ray cluster.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes; one per GPU without it.")
    ] = None,
    shard_rows: Annotated[
        int | None, typer.Option("--shard-rows", help="Images a shard; 2000 without it.")
    ] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Anomaly maps too, on the model's grid (.npy).")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Shards with errors are scored again.")
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Score millions of images into Parquet shards; the same command goes on after a stop."""
    from scanomaly.scoring import ScoringOptions, score_manifest

    options = ScoringOptions(workers, shard_rows, maps, device, precision, ray, retry_failed)
    with progress_bar("scoring") as bar:
        summary = score_manifest(run, manifest, out, options, progress=_shown(bar))
    for example in summary.examples:
        typer.echo(f"could not be scored: {example}")
    if summary.failed:
        typer.echo(f"{summary.failed} of {summary.rows} images could not be scored; see `error`.")
    speed = summary.images / summary.seconds if summary.images else 0.0
    typer.echo(f"scored now: {summary.images} images, {speed:.1f} images/s")
    typer.echo(f"scores: {summary.rows} rows in {out / 'shards'}")


def _shown(bar: Any) -> Callable[[Any], None]:
    """On a terminal as a bar, elsewhere as a line now and then."""
    last = time.monotonic()

    def show(progress: Any) -> None:
        nonlocal last
        bar(progress.done, progress.total, str(progress))
        if not sys.stderr.isatty() and time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            logger.info("%s", progress)

    return show
