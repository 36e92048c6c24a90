"""A template and what it names -> one HTML page that asks for nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scanomaly.errors import ScanomalyError
from scanomaly.report.pictures import data_uri
from scanomaly.report.tables import percent

EXTRA = ("jinja2", "matplotlib")


class MissingExtraError(ScanomalyError, ImportError):
    """The libraries that draw report.html are not installed."""


@dataclass(frozen=True, slots=True)
class PageHead:
    """What the frame of every page names, where there is no evaluation to name it.

    run: whatever has a `preset`. weights: with their licences.
    """

    dataset: str
    run: Any
    notes: Sequence[str]
    splits: Mapping[str, str]
    weights: Sequence[str]


def render(template: str, context: Mapping[str, object]) -> str:
    """A template of this folder with everything that it names. Needs jinja2."""
    text: str = _environment().get_template(template).render(context)
    return text


@cache
def _environment() -> Any:
    """Keeps templates that were read."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_text_of),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "picture": lambda png: data_uri(png, "image/png")}
    return environment


def _text_of(template: str) -> str:
    return files("scanomaly.report").joinpath(template).read_text(encoding="utf-8")


def duration(seconds: float) -> str:
    """Such as `43 ms` or `1.20 s`."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def require_extra(path: Path, written: str) -> None:
    """Raises MissingExtraError where `path` cannot be drawn. written: what is safe already."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{path} needs {' and '.join(missing)}, not installed here: "
            f'pip install "scanomaly[report]". {written} are written.'
        )
