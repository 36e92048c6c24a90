"""Maps and scores of branches and levels, as they stand under the pictures of their image.

Names are the method's: the first word is the branch, the others say what of it, such as
`text_map`, `text_block_5` and `text_score`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scanomaly.report.pictures import SMALL_BUDGET, encoded, part_picture

if TYPE_CHECKING:
    from scanomaly.panels import Panel


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch of one image. scores: in words. pictures: a data URI, or None, per column."""

    name: str
    scores: Sequence[str]
    pictures: Mapping[str, str | None]


def branches_of(panels: Sequence[Panel]) -> list[list[Branch]]:
    """The branches of each panel, all with the same columns."""
    names = [(panel, name) for panel in panels for name in panel.part_maps]
    uris = encoded([part_picture(panel, name) for panel, name in names], SMALL_BUDGET)
    found = {(id(panel), name): uri for (panel, name), uri in zip(names, uris, strict=True)}
    columns = list(dict.fromkeys(_words(name)[1] for _, name in names))
    return [_branches(panel, columns, found) for panel in panels]


def _branches(
    panel: Panel, columns: Sequence[str], uris: Mapping[tuple[int, str], str]
) -> list[Branch]:
    maps: dict[str, dict[str, str | None]] = {}
    scores: dict[str, list[str]] = {}
    for name in panel.part_maps:
        branch, what = _words(name)
        maps.setdefault(branch, dict.fromkeys(columns))[what] = uris[id(panel), name]
    for name, score in panel.part_scores.items():
        branch, what = _words(name)
        scores.setdefault(branch, []).append(f"{what} {score:.4g}")
    return [
        Branch(branch, scores.get(branch, []), maps.get(branch, {}))
        for branch in dict.fromkeys((*maps, *scores))
    ]


def _words(name: str) -> tuple[str, str]:
    """`text_block_5` -> (`text`, `block 5`)."""
    branch, _, what = name.partition("_")
    return branch, what.replace("_", " ") or branch
