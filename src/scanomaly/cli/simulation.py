"""The verbs that need no data: phantom, pretrain, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanomaly.cli.app import ACCELERATORS, app, progress_bar
from scanomaly.cli.reports import write_reports
from scanomaly.errors import ConfigError


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder.")],
    patients: Annotated[int, typer.Option(help="Simulated patients.")] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    contrast: Annotated[
        list[str] | None, typer.Option(help="Of the brain: T1, T2, FLAIR; all three without it.")
    ] = None,
    styles: Annotated[
        list[str] | None,
        typer.Option(help="brain, oct, ct, tissue, chest or all: a folder of sets, one a style."),
    ] = None,
) -> None:
    """Simulate patients with and without lesions, in BMAD layout; of the brain without --styles."""
    from scanomaly.data.phantom import ALL_CONTRASTS, write_phantom, write_styles

    wanted = tuple(contrast or ALL_CONTRASTS)
    numbers = {"patients": patients, "seed": seed}
    with progress_bar("simulating") as progress:
        if styles:
            manifests = write_styles(out, styles, contrasts=wanted, progress=progress, **numbers)
        else:
            manifests = [write_phantom(out, contrasts=wanted, progress=progress, **numbers)]
    for manifest in manifests:
        typer.echo(f"phantom: {manifest}")


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="What to make: tiny-clip.")],
    out: Annotated[Path, typer.Option("--out", help="New folder; later a folder of weights.")],
    minutes: Annotated[
        float | None, typer.Option(help="Train about so long, simulation not counted.", min=0)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Rounds over all images.")] = None,
    slices: Annotated[int | None, typer.Option(help="Images to simulate of each style.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    devices: Annotated[int | None, typer.Option(help="How many devices train.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, gpu or mps.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that simulate.", min=1)] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
) -> None:
    """Pretrain a small CLIP on simulated healthy images and captions of what they show."""
    from scanomaly.data.phantom.captions import caption
    from scanomaly.data.phantom.styles import STYLES
    from scanomaly.pretraining import recipe, run

    if minutes is not None and epochs is not None:
        raise ConfigError("expected --minutes or --epochs, got both; leave one out.")
    given = {
        "styles": tuple(STYLES),
        "slices": slices,
        "fit.epochs": epochs,
        "fit.seed": seed,
        "fit.devices": devices,
        "fit.accelerator": ACCELERATORS.get(device.partition(":")[0], device),
    }
    folder = run.pretrain(
        out,
        recipe.recipe(name).with_values(given),
        STYLES,
        caption,
        minutes=minutes,
        workers=workers,
        resume=resume,
    )
    if folder is not None:  # this is the main process
        typer.echo(f"pretrained: {folder}; model card: {folder / 'README.md'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the demo goes.")] = Path(
        "scanomaly-demo"
    ),
    seed: Annotated[int, typer.Option(help="Same seed, same numbers.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller, in about a minute.")] = False,
) -> None:
    """Simulate a small data set, fit QFAE offline, evaluate it and write the report."""
    from scanomaly.demo import run_demo

    with progress_bar("demo") as progress:
        evaluation, run = run_demo(out, seed=seed, quick=quick, progress=progress)
    write_reports(evaluation, run)
