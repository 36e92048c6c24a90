"""The verbs that need no data: phantom, pretrain, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanomaly.cli.answers import show_answers, write_asked
from scanomaly.cli.app import accelerator, app, progress_bar
from scanomaly.cli.reports import write_reports, write_vqa_reports
from scanomaly.errors import ConfigError


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder.")],
    patients: Annotated[int, typer.Option(help="Simulated patients.")] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    slices: Annotated[
        int | None, typer.Option(help="Of each patient: 8 without it, 2 with --vqa.", min=1)
    ] = None,
    finer: Annotated[
        int,
        typer.Option(help="Look between the slices, so many times as finely, for lesions.", min=1),
    ] = 1,
    contrast: Annotated[
        list[str] | None, typer.Option(help="Of the brain: T1, T2, FLAIR; all three without it.")
    ] = None,
    styles: Annotated[
        list[str] | None,
        typer.Option(help="brain, oct, ct, tissue, chest or all: a folder of sets, one a style."),
    ] = None,
    skull: Annotated[
        bool,
        typer.Option("--skull", help="Whole heads with skull and scalp, to fit a detector on."),
    ] = False,
    vqa: Annotated[
        bool,
        typer.Option("--vqa", help="Whole heads to ask questions about: other patients, 7:1:2."),
    ] = False,
) -> None:
    """Simulate patients with and without lesions, in BMAD layout; of the brain without --styles."""
    from scanomaly.data.phantom import (
        ALL_CONTRASTS,
        write_heads,
        write_phantom,
        write_question_heads,
        write_styles,
    )

    if bool(styles) + skull + vqa > 1:
        raise ConfigError("expected one of --styles, --skull and --vqa, got several; choose one.")
    if finer > 1 and (skull or vqa):
        raise ConfigError("--finer is not for whole heads; leave out --skull and --vqa.")
    wanted = tuple(contrast or ALL_CONTRASTS)
    numbers = {"patients": patients, "seed": seed} | ({"slices": slices} if slices else {})
    numbers |= {"finer": finer} if finer > 1 else {}
    with progress_bar("simulating") as progress:
        if styles:
            manifests = write_styles(out, styles, contrasts=wanted, progress=progress, **numbers)
        else:
            write = write_question_heads if vqa else write_heads if skull else write_phantom
            manifests = [write(out, contrasts=wanted, progress=progress, **numbers)]
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
        "fit.accelerator": accelerator(device),
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
    method: Annotated[
        str | None,
        typer.Option(help="qfae, mvfa, iqe; zero-shot: mvfa-zero, iqe-zero; qfae without it."),
    ] = None,
    style: Annotated[
        str | None, typer.Option(help="brain, oct, ct, tissue or chest; each method has its own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same numbers.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller, in a minute or two.")] = False,
    with_vqa: Annotated[
        bool, typer.Option("--with-vqa", help="A demo of its own: heads, QFAE, answers about them.")
    ] = False,
) -> None:
    """Simulate a small data set, fit a method offline, evaluate it and write the report."""
    if with_vqa:
        if method is not None or style is not None:
            raise ConfigError(
                "--with-vqa has a method and data of its own; leave out --method and --style."
            )
        _demo_with_vqa(out, seed, quick)
        return
    from scanomaly.demo import DEFAULT_METHOD, run_demo

    method = DEFAULT_METHOD if method is None else method
    with progress_bar("demo") as progress:
        evaluation, run = run_demo(
            out, method=method, style=style, seed=seed, quick=quick, progress=progress
        )
    write_reports(evaluation, run)


def _demo_with_vqa(out: Path, seed: int, quick: bool) -> None:
    from scanomaly.demo_vqa import run_vqa_demo

    with progress_bar("demo") as progress:
        made = run_vqa_demo(out, seed=seed, quick=quick, progress=progress)
    write_reports(made.detector, made.detector_run)
    write_vqa_reports(made.answers, made.answerer_run)
    show_answers(made.asked)
    write_asked(made.asked, out / "asked")
