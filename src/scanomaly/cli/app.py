"""What all verbs share: the application, its options, progress on a terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from scanomaly import __version__
from scanomaly.errors import ConfigError

AnyRun = TypeVar("AnyRun")
DISCLAIMER = "Research software, not a medical device."
FAILED = 2
PIPED_WIDTH = 400
"""Of tables that go to a file or another program, so that none of their cells is cut."""
"""Exit code of everything that a user can act on."""


EVERYWHERE = ("--debug", "--offline", "--quiet", "-q")
"""Understood before and behind the verb."""

app = typer.Typer(
    name="scanomaly",
    help=f"Find, show and explain anomalies in medical images. {DISCLAIMER}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

DataOption = Annotated[
    Path, typer.Option("--data", help="One set, a folder of sets, or a CSV/Parquet manifest.")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Which set of a folder of sets.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16"], typer.Option("--precision", help="Precision of prediction.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a field: config.…, data.… or fit.…, value as YAML."),
]


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A run.yaml instead of a preset.")
]
PresetArgument = Annotated[
    str | None, typer.Argument(metavar="PRESET", help="See `scanomaly presets`.")
]
DevicesOption = Annotated[int | None, typer.Option("--devices", help="How many devices train.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Processes that decode images.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]
FitPrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option("--precision", help="Precision of training."),
]
FitDeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, gpu or mps.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")]


def fit_fields(
    devices: int | None, workers: int | None, seed: int | None, precision: str | None, device: str
) -> dict[str, Any]:
    """Fields of a run that options of every `fit` name; None where none was given."""
    return {
        "fit.devices": devices,
        "fit.workers": workers,
        "fit.seed": seed,
        "fit.precision": precision,
        "fit.accelerator": accelerator(device),
    }


def accelerator(device: str) -> str | None:
    """Lightning's name of a device; None for auto, which leaves a run's own."""
    from scanomaly.config.fit import ACCELERATORS

    kind = device.partition(":")[0]
    return None if kind == "auto" else ACCELERATORS.get(kind, device)


def given_options(fields: Mapping[str, Any], assignments: list[str] | None) -> list[str]:
    """Options as assignments, those of --set last."""
    options = [f"{name}={value}" for name, value in fields.items() if value is not None]
    return [*options, *(assignments or [])]


def chosen_run(
    name: str | None,
    config: Path | None,
    preset: Callable[[str], AnyRun],
    load: Callable[[Path], AnyRun],
) -> AnyRun:
    """The run of a preset or of a file. Raises ConfigError unless exactly one is given."""
    if (name is None) == (config is None):
        raise ConfigError("expected a preset name or --config run.yaml, one of the two.")
    return load(config) if config is not None else preset(str(name))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"scanomaly {__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO,
        format="%(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # of a damaged file our error tells
    for noisy in ("matplotlib", "fsspec", "lightning", "lightning.pytorch", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, soft_wrap=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Any]:
    """A progress bar on a terminal, silence elsewhere; gives update(done, total[, words])."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, words=what: bar.update(
            task, completed=done, total=total, description=words
        )
