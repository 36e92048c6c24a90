"""Answers about one scan to the terminal, and to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from scanomaly.cli.app import DISCLAIMER, console


def show_answers(asked: Any) -> None:
    """What the detector says, a table of answers, and what contradicts what."""
    from rich.markup import escape
    from rich.table import Table

    from scanomaly.report.asked import answer_lines, verdict

    typer.echo(f"{asked.name}: {verdict(asked)}")
    table = Table("question", "answer", "probability", "certainty", box=None, pad_edge=False)
    for line in answer_lines(asked):
        kind = " (free)" if line.free else ""
        words = line.text
        if line.uncertain:
            words = "uncertain: " + "; ".join(f"{text} {share}" for text, share in line.candidates)
        table.add_row(escape(line.question + kind), escape(words), line.probability, line.certainty)
    console().print(table)
    for contradiction in asked.contradictions:
        typer.echo(f"contradiction: {contradiction}")
    typer.echo(DISCLAIMER)


def write_asked(asked: Any, out: Path) -> None:
    """answers.json and answers.html into a folder."""
    from scanomaly.report.asked import write_answers

    typer.echo(f"report: {write_answers(asked, out).resolve()}")
