"""The verbs of detectors: presets, fit, evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scanomaly.cli.app import (
    ACCELERATORS,
    DataOption,
    DatasetOption,
    DeviceOption,
    PrecisionOption,
    SetOption,
    app,
    console,
    progress_bar,
)
from scanomaly.cli.reports import write_reports
from scanomaly.errors import ConfigError, DataError


@app.command()
def presets() -> None:
    """Every named experiment, with its source."""
    from rich.table import Table

    from scanomaly.presets import PRESETS, preset

    table = Table("preset", "method", "source", box=None, pad_edge=False)
    for name in PRESETS:
        run = preset(name)
        table.add_row(name, run.method, run.source)
    console().print(table)


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
    shots: Annotated[
        int | None, typer.Option(help="few-shot: so many normal and abnormal images.")
    ] = None,
    support: Annotated[
        str | None, typer.Option(help="few-shot: published, or seed:7 for a draw by patients.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="zero-shot: the data set that is left out.")
    ] = None,
    exclude_siblings: Annotated[
        bool, typer.Option("--exclude-siblings", help="zero-shot: nor sets of its modality.")
    ] = False,
    devices: Annotated[int | None, typer.Option(help="How many devices train.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Precision of training.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, gpu or mps.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
) -> None:
    """Train a detector on a data set, and calibrate it."""
    from scanomaly import fitting
    from scanomaly.data.manifest import read_manifest
    from scanomaly.evaluation import result_on_test

    given = {
        "fit.devices": devices,
        "fit.workers": workers,
        "fit.seed": seed,
        "fit.precision": precision,
        "fit.accelerator": ACCELERATORS.get(device.partition(":")[0], device),
        "data.shots": shots,
        "data.support": support,
        "data.target": target,
        "data.exclude_siblings": exclude_siblings or None,
    }
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    plain = _resolve(preset_name, config).under(protocol)
    run = plain.with_overrides([*options, *(assignments or [])])
    result = result_on_test(lambda: read_manifest(data, dataset or target))
    manifest = fitting.read_training_data(run, data, dataset)
    fitted = fitting.fit(run, manifest, out, resume=resume, result_on_test=result)
    if fitted is not None:  # this is the main process
        typer.echo("\n".join(f"pretrained weights: {line}" for line in fitted.weights))
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

    fitted = load(run, device=device, precision=precision)
    manifest = read_manifest(data, dataset or fitted.run.data.target)
    with progress_bar("scoring") as progress:
        evaluation = evaluate_run(
            fitted, manifest, protocol=protocol, pixel_grid=pixel_grid, progress=progress
        )
    write_reports(evaluation, run)


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
    with progress_bar("scoring") as progress:
        failed = predict_files(fitted, inputs, out, progress=progress)
    typer.echo(f"predictions: {out / 'predictions.csv'}")
    if failed:
        several = f"{len(failed)} images could not be scored:\n"
        raise DataError((several if len(failed) > 1 else "") + "\n".join(failed))


def _resolve(name: str | None, config: Path | None) -> Any:
    from scanomaly.config.run import load_run
    from scanomaly.presets import preset

    if (name is None) == (config is None):
        raise ConfigError("expected a preset name or --config run.yaml, one of the two.")
    return load_run(config) if config is not None else preset(str(name))
