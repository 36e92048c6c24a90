"""The verbs of detectors: presets, fit, evaluate, predict, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scanomaly.cli.app import (
    ConfigOption,
    DataOption,
    DatasetOption,
    DeviceOption,
    DevicesOption,
    FitDeviceOption,
    FitPrecisionOption,
    PrecisionOption,
    PresetArgument,
    ResumeOption,
    SeedOption,
    SetOption,
    WorkersOption,
    app,
    chosen_run,
    console,
    fit_fields,
    given_options,
    progress_bar,
)
from scanomaly.cli.reports import write_reports
from scanomaly.errors import DataError


@app.command()
def presets() -> None:
    """Every named experiment, with its source."""
    from rich.table import Table

    from scanomaly.presets import PRESETS, VQA_PRESETS

    table = Table("preset", "method", "source", box=None, pad_edge=False)
    for name, make in PRESETS.items():
        run = make()
        table.add_row(name, run.method, run.source)
    for name, ask in VQA_PRESETS.items():
        table.add_row(name, "vqa", ask().source)
    console().print(table)


@app.command()
def fit(
    data: DataOption,
    preset_name: PresetArgument = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")] = Path("runs/run"),
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    protocol: Annotated[
        Literal["honest", "paper"] | None,
        typer.Option(help="paper: as published, said in the report; without it as --config says."),
    ] = None,
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
    devices: DevicesOption = None,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    precision: FitPrecisionOption = None,
    device: FitDeviceOption = "auto",
    resume: ResumeOption = False,
) -> None:
    """Train a detector on a data set, and calibrate it."""
    from scanomaly import fitting
    from scanomaly.config.run import load_run
    from scanomaly.data.manifest import read_manifest
    from scanomaly.evaluation import result_on_test
    from scanomaly.presets import preset

    fields = fit_fields(devices, workers, seed, precision, device) | {
        "data.shots": shots,
        "data.support": support,
        "data.target": target,
        "data.exclude_siblings": exclude_siblings or None,
    }
    plain = chosen_run(preset_name, config, preset, load_run)
    plain = plain.under(protocol or plain.protocol)
    run = plain.with_overrides(given_options(fields, assignments))
    result = result_on_test(lambda: read_manifest(data, dataset or run.data.target))
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
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where results go; RUN/predictions without it."),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Score images: predictions.csv, maps (.npy), overlays and reconstructions (.png)."""
    from scanomaly.inference import load
    from scanomaly.prediction import predict_files

    out = out or run / "predictions"
    fitted = load(run, device=device, precision=precision)
    with progress_bar("scoring") as progress:
        failed = predict_files(fitted, inputs, out, progress=progress)
    typer.echo(f"predictions: {out / 'predictions.csv'}")
    if failed:
        several = f"{len(failed)} images could not be scored:\n"
        raise DataError((several if len(failed) > 1 else "") + "\n".join(failed))


@app.command()
def figures(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: DataOption,
    dataset: DatasetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where they go; RUN/figures without it.")
    ] = None,
    split: Annotated[
        Literal["valid", "train"], typer.Option(help="Labelled images of it are shown.")
    ] = "valid",
    patches: Annotated[
        bool, typer.Option("--patches", help="Points are patches, by their masks; not images.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same points.")] = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Draw t-SNE of features before and after adaptation; never of the test split."""
    from scanomaly.data.manifest import read_manifest
    from scanomaly.figures import write_figures
    from scanomaly.inference import load

    fitted = load(run, device=device, precision=precision)
    manifest = read_manifest(data, dataset or fitted.run.data.target)
    with progress_bar("projecting") as progress:
        written = write_figures(
            fitted,
            manifest,
            out or run / "figures",
            split=split,
            kind="patches" if patches else "images",
            seed=seed,
            progress=progress,
        )
    typer.echo("\n".join(f"figure: {path}" for path in written))
