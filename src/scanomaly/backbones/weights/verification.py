"""Checks of the weights that lie in a directory. Touches no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanomaly.backbones.weights.inventory import is_clip, is_language
from scanomaly.backbones.weights.places import (
    CLIP_WEIGHT_FILES,
    SUFFIXES,
    WEIGHT_FILES,
    weight_file,
)
from scanomaly.errors import ScanomalyError, WeightsError

RECORD = "fetched.json"
"""What `fetch` leaves beside a weight file: where it came from and its sha256 sum."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What `verify` says of one weight file; no problems = as it should be."""

    file: Path
    name: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(directory: Path | str) -> list[Finding]:
    """Check every weight file in `directory` and in its folders, two deep; sorted by name.

    Readable, complete, finite, the keys and shapes of its architecture, and, where `fetch`
    recorded them, the sha256 sums. Raises WeightsError if there is nothing to check.
    """
    place = Path(directory).expanduser()
    if not place.is_dir():
        raise WeightsError(f"{place} is not a directory; give the one that holds the weights.")
    items = [place] if _holds_weights(place) else sorted(_items(place))
    if not items:
        names = " or ".join((*WEIGHT_FILES, *CLIP_WEIGHT_FILES))
        raise WeightsError(
            f"{place} holds no weights; expected folders with {names}, "
            f"or files ending in {', '.join(SUFFIXES)}."
        )
    return [_finding(item) for item in items]


def _items(place: Path) -> Iterator[Path]:
    """Weight files and folders with one in `place`, and in its folders (ARCH/TAG, AUTHOR/NAME)."""
    yield from filter(_holds_weights, place.iterdir())
    for name in (*CLIP_WEIGHT_FILES, *WEIGHT_FILES):
        yield from (file.parent for file in place.glob(f"*/*/{name}"))


def _holds_weights(item: Path) -> bool:
    if item.is_dir():
        return _is_clip_folder(item) or any((item / name).is_file() for name in WEIGHT_FILES)
    return item.suffix in SUFFIXES


def _is_clip_folder(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CLIP_WEIGHT_FILES)


def _finding(item: Path) -> Finding:
    if not item.is_dir():
        return Finding(item, item.stem, tuple(file_problems(item, item.stem)))
    pair = f"{item.parent.name}/{item.name}"
    of_two = _is_clip_folder(item) or is_language(pair.removesuffix(".partial"))
    name = pair if of_two else item.name
    if name.endswith(".partial"):
        name = name.removesuffix(".partial")
        return Finding(item, name, (f"unfinished download; `scanomaly weights fetch {name}`",))
    file = weight_file(item, name)
    problems = [*record_problems(item), *file_problems(file, name)]
    return Finding(file, name, tuple(problems))


def record_problems(folder: Path, *, require: bool = False) -> list[str]:
    """What differs from the record that `fetch` left; without a record nothing is known."""
    record = folder / RECORD
    if not record.is_file():
        return ["no record of a fetch"] if require else []
    try:
        files: Mapping[str, Any] = json.loads(record.read_text(encoding="utf-8"))["files"]
        expected = {str(name): str(entry["sha256"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return [f"{RECORD} is damaged ({error!r})"]
    problems = [f"{name} is missing" for name in expected if not (folder / name).is_file()]
    return problems + [
        f"{name} has another sha256 than when it was fetched"
        for name, known in expected.items()
        if (folder / name).is_file() and sha256(folder / name) != known
    ]


def file_problems(file: Path, name: str) -> list[str]:
    """Problems of a weight file: unreadable, of another architecture, not finite."""
    try:
        return _check(file, name)
    except ScanomalyError as error:
        return [str(error).rstrip(".")]


def _check(file: Path, name: str) -> list[str]:
    if is_clip(name):
        from scanomaly.backbones.clip import check_clip

        return check_clip(file, name)
    if is_language(name):
        from scanomaly.backbones.language import check_language

        return check_language(file)
    from scanomaly.backbones.loading import check_weights

    return check_weights(file, name)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
