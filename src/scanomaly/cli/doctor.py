"""The verb that looks at data before a run: doctor."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanomaly.cli.app import DatasetOption, app, console, progress_bar

if TYPE_CHECKING:
    from scanomaly.doctor import Diagnosis

UNSAFE = 1
"""Exit code when there are errors in the data."""
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


@app.command()
def doctor(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="One set, a folder of sets, a CSV/Parquet manifest, triples, any folder.",
        ),
    ],
    dataset: DatasetOption = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the findings to this file too.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that decode images; all cores without it.", min=1),
    ] = None,
) -> None:
    """What is wrong with a data folder, before any run.

    Exit code 0: safe to go on. 1: the data hold errors. 2: the command could not be carried out.
    """
    from scanomaly.doctor import examine, write_json

    logging.getLogger("scanomaly.data").setLevel(logging.ERROR)  # the table says it
    with progress_bar("examining") as progress:
        diagnosis = examine(data, dataset, workers=workers, progress=progress)
    _show(diagnosis)
    if json is not None:
        write_json(diagnosis, json)
        typer.echo(f"findings: {json}")
    if not diagnosis.safe:
        raise typer.Exit(UNSAFE)


def _show(diagnosis: Diagnosis) -> None:
    from rich.markup import escape
    from rich.table import Table

    for examined in diagnosis.sets:
        counts = "; ".join(
            f"{split}: {normal} normal, {abnormal} abnormal"
            + (f", {unlabelled} unlabelled" if unlabelled else "")
            for split, (normal, abnormal, unlabelled) in examined.counts.items()
        )
        typer.echo(f"{examined.dataset} ({examined.root}, {examined.source}): {counts or 'empty'}")
    if diagnosis.findings:
        table = Table("", "set", "check", "found", "what to do", box=None, pad_edge=False)
        for finding in diagnosis.findings:
            files = f" ({', '.join(finding.files)})" if finding.files else ""
            found = f"{finding.found}{files}"
            cells = (finding.severity, finding.dataset, finding.check, found, finding.remedy)
            table.add_row(*map(escape, cells), style=_STYLES[finding.severity])
        console().print(table)
    counted = ", ".join(
        f"{count} {severity}{'' if count == 1 else 's'}"
        for severity, count in diagnosis.counts().items()
    )
    verdict = "safe to go on" if diagnosis.safe else "not safe to go on: mend the errors first"
    typer.echo(f"{counted} in {diagnosis.images} images: {verdict}.")
