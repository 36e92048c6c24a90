"""The verb import: published checkpoints to run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scanomaly.cli.app import DatasetOption, DeviceOption, SetOption, app, chosen_run


@app.command("import")
def import_(
    method: Annotated[
        Literal["qfae", "mvfa", "iqe-clip", "kqf"], typer.Argument(help="Whose checkpoint it is.")
    ],
    file: Annotated[Path, typer.Argument(help="The published file.")],
    preset_name: Annotated[
        str | None, typer.Option("--preset", help="What it was trained as; see `presets`.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A run.yaml instead of a preset.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")] = Path("runs/imported"),
    dataset: DatasetOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="few-shot: the data set whose support fills the memory bank."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate", help="A data set: its healthy images of split valid calibrate."
        ),
    ] = None,
    assignments: SetOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Make a run folder of a published checkpoint; nothing in it is executed."""
    from scanomaly.config.run import Run
    from scanomaly.config.vqa import VqaRun
    from scanomaly.importing import LAYOUTS, Images, import_checkpoint, preset_for

    def preset(name: str) -> Any:
        return preset_for(LAYOUTS[method], name)

    load = VqaRun.load if method == "kqf" else Run.load
    run = chosen_run(preset_name, config, preset, load).with_overrides(assignments or [])
    images = Images(dataset, support=data, healthy=calibrate)
    made = import_checkpoint(method, file, run, out, images=images, device=device)
    lines = [f"pretrained weights: {line}" for line in made.weights]
    typer.echo("\n".join([*lines, *(f"note: {note}" for note in made.notes)]))
    typer.echo(f"imported: {made.folder}")
