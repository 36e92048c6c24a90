"""The verbs of pretrained weights: list, fetch, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanomaly.cli.app import FAILED, app, console, progress_bar

weights_app = typer.Typer(
    help="Pretrained weights: what each preset needs, under which licence.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")


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
    console().print(table)


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
        with progress_bar(name) as progress:
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
