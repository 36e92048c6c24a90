"""The command line: parse, call, print. Heavy rooms are imported inside the verbs."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scanomaly import __version__
from scanomaly.errors import ConfigError, DataError, ScanomalyError

DISCLAIMER = "Research software, not a medical device."
FAILED = 2
STOPPED = 130
"""What typer makes of Ctrl-C; to our users it is a failure like others."""
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
weights_app = typer.Typer(
    help="Pretrained weights: what each preset needs, under which licence.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")

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


@app.command()
def presets() -> None:
    """Every named experiment, with its source."""
    from rich.table import Table

    from scanomaly.presets import PRESETS, preset

    table = Table("preset", "method", "source", box=None, pad_edge=False)
    for name in PRESETS:
        run = preset(name)
        table.add_row(name, run.method, run.source)
    _console().print(table)


@app.command()
def fit(
    data: DataOption,
    preset_name: Annotated[
        str | None, typer.Argument(metavar="PRESET", help="See `scanomaly presets`.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")] = Path("runs/run"),
    dataset: DatasetOption = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A run.yaml instead of a preset.")
    ] = None,
    assignments: SetOption = None,
    protocol: Annotated[
        Literal["honest", "paper"], typer.Option(help="paper: as published, said in the report.")
    ] = "honest",
    devices: Annotated[int | None, typer.Option(help="How many devices train.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Precision of training.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, gpu or mps.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
) -> None:
    """Train a detector on the normal images of a data set, and calibrate it."""
    from scanomaly.data.manifest import read_manifest
    from scanomaly.fitting import fit as fit_run

    given = {"devices": devices, "workers": workers, "seed": seed, "precision": precision}
    options = [f"fit.{name}={value}" for name, value in given.items() if value is not None]
    if device != "auto":
        options.append(f"fit.accelerator={'gpu' if device.startswith('cuda') else device}")
    run = _resolve(preset_name, config).with_overrides([*options, *(assignments or [])])
    run = run.model_copy(update={"protocol": protocol}) if protocol != run.protocol else run
    fitted = fit_run(run, read_manifest(data, dataset), out, resume=resume)
    if fitted is None:
        return
    for line in fitted.weights:
        typer.echo(f"pretrained weights: {line}")
    typer.echo(f"fitted: {out}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: DataOption,
    dataset: DatasetOption = None,
    protocol: Annotated[
        Literal["honest", "paper"], typer.Option(help="paper: as published, said in the report.")
    ] = "honest",
    pixel_grid: Annotated[
        Literal["model", "native"], typer.Option(help="Where pixel metrics are computed.")
    ] = "model",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Score the test split: the only verb that touches it."""
    from scanomaly.data.manifest import read_manifest
    from scanomaly.evaluation import evaluate as evaluate_run
    from scanomaly.inference import load

    manifest = read_manifest(data, dataset)
    fitted = load(run, device=device, precision=precision)
    with _progress("scoring") as progress:
        evaluation = evaluate_run(
            fitted, manifest, protocol=protocol, pixel_grid=pixel_grid, progress=progress
        )
    _write_reports(evaluation, run)


def _write_reports(evaluation: Any, run: Path) -> None:
    """Into the evaluation's own folder, mirrored at the top of the run folder."""
    from scanomaly.report import write_report

    own = run / "evaluations" / f"{evaluation.dataset}-{evaluation.protocol}"
    report = write_report(evaluation, own)
    write_report(evaluation, run)
    for kind, family in (("image", evaluation.image), ("pixel", evaluation.pixel)):
        for name, estimate in family.items():
            typer.echo(f"{kind} {name}: {_words(estimate)}")
    for note in evaluation.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"report: {report.resolve()}")


def _words(estimate: Any) -> str:
    if estimate.value is None:
        return f"undefined: {estimate.why}"
    if estimate.low is None:
        return f"{estimate.value:.3f} (no interval: {estimate.why})"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    inputs: Annotated[list[Path], typer.Argument(help="Images and folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where results go.")],
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Score images: predictions.csv, maps (.npy), overlays and reconstructions (.png)."""
    from scanomaly.inference import load
    from scanomaly.prediction import predict_files

    fitted = load(run, device=device, precision=precision)
    with _progress("scoring") as progress:
        failed = predict_files(fitted, inputs, out, progress=progress)
    typer.echo(f"predictions: {out / 'predictions.csv'}")
    if failed:
        several = f"{len(failed)} images could not be scored:\n"
        raise DataError((several if len(failed) > 1 else "") + "\n".join(failed))


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder.")],
    patients: Annotated[int, typer.Option(help="Simulated patients.")] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    contrast: Annotated[
        list[str] | None, typer.Option(help="T1, T2 or FLAIR; all three without it.")
    ] = None,
) -> None:
    """Simulate patients with and without lesions on MNI152 anatomy, in BMAD layout."""
    from scanomaly.data.phantom import ALL_CONTRASTS, write_phantom

    with _progress("simulating") as progress:
        manifest = write_phantom(
            out,
            patients=patients,
            seed=seed,
            contrasts=tuple(contrast or ALL_CONTRASTS),
            progress=progress,
        )
    typer.echo(f"phantom: {manifest}")


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

    with _progress("demo") as progress:
        evaluation, run = run_demo(out, seed=seed, quick=quick, progress=progress)
    _write_reports(evaluation, run)


@weights_app.command("list")
def weights_list() -> None:
    """Every pretrained weight: size, licence, which presets need it, where it lives."""
    from rich.table import Table

    from scanomaly.backbones.weights import INVENTORY, find
    from scanomaly.presets import presets_by_weight

    users = presets_by_weight()
    table = Table("name", "MB", "licence", "here", "presets", box=None, pad_edge=False)
    for name, entry in INVENTORY.items():
        place = find(name)
        needed = users.get(name, ())
        presets_words = (
            f"{needed[0]} and {len(needed) - 1} more" if len(needed) > 1 else "".join(needed)
        )
        table.add_row(
            name, str(entry.megabytes or "?"), entry.licence, str(place or "no"), presets_words
        )
    _console().print(table)


@weights_app.command("fetch")
def weights_fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    to: Annotated[Path, typer.Option("--to", help="Folder for weights.")],
) -> None:
    """Download weights: the only verb that touches the network."""
    from scanomaly.backbones.weights import describe, fetch

    for name in names:
        entry = describe(name)
        typer.echo(f"{name}: {entry.origin}, licence {entry.licence}")
        with _progress(name) as progress:
            where = fetch(name, to, progress=lambda _, done, total: progress(done, total or done))
        typer.echo(f"fetched: {where}")


@weights_app.command("verify")
def weights_verify(directory: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Check every weight file of a folder: readable, complete, as recorded when fetched."""
    from scanomaly.backbones.weights import verify

    findings = verify(directory)
    for finding in findings:
        typer.echo(f"{finding.file}: {'; '.join(finding.problems) or 'ok'}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(FAILED)


def _resolve(name: str | None, config: Path | None) -> Any:
    from scanomaly.config.run import load_run
    from scanomaly.presets import preset

    if (name is None) == (config is None):
        raise ConfigError("expected a preset name or --config run.yaml, one of the two.")
    return load_run(config) if config is not None else preset(str(name))


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, soft_wrap=True)


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """A progress bar on a terminal, silence elsewhere; gives update(done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main() -> None:
    """Entry point: errors a user can act on are one line and exit code 2."""
    everywhere = [word for word in sys.argv[1:] if word in EVERYWHERE]
    others = [word for word in sys.argv[1:] if word not in EVERYWHERE]
    debug = "--debug" in everywhere
    try:
        code = app(everywhere + others, prog_name="scanomaly", standalone_mode=False)
        if code == STOPPED:
            raise KeyboardInterrupt
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("stopped.", err=True)
        sys.exit(FAILED)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is not None:  # usage errors come from the parser and show themselves
            show()
            sys.exit(getattr(error, "exit_code", FAILED))
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {_in_words(error)}", err=True)
        sys.exit(FAILED)


def _in_words(error: Exception) -> str:
    if isinstance(error, ScanomalyError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the disk."
    return f"{type(error).__name__}: {error} (a defect of Scanomaly: --debug shows where)"


__all__ = ["app", "main"]
