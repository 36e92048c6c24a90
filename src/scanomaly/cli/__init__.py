"""The command line: parse, call, print. Heavy rooms are imported inside the verbs."""

from __future__ import annotations

import sys
import traceback

import typer

from scanomaly.cli import (
    bench,
    detectors,
    doctor,
    importing,
    language,
    scoring,
    simulation,
    weights,
)
from scanomaly.cli.app import EVERYWHERE, FAILED, app
from scanomaly.errors import ScanomalyError

STOPPED = 130
"""What typer makes of Ctrl-C; to our users it is a failure like others."""


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


__all__ = [
    "app",
    "bench",
    "detectors",
    "doctor",
    "importing",
    "language",
    "main",
    "scoring",
    "simulation",
    "weights",
]
