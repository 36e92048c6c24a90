"""MVFA's published layout: the adapters of both heads, one file for each data set and setting.

Source: specification, section 12. CLIP, text features and the memory bank are not in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanomaly.backbones.loading import Shapes
from scanomaly.config.experiment import Experiment
from scanomaly.config.mvfa import OBJECT_WORDS
from scanomaly.importing.layout import Facts, Layout, Names, count_of

HEADS: Names = {"seg_adapters": "seg", "det_adapters": "det"}
LINEARS: Names = {"fc1.0": "down", "fc2.0": "up"}
SETTINGS: Mapping[str, str] = {"few-shot": "few_shot", "zero-shot": "zero_shot"}
"""Folder of a published file -> `config.setting`."""


def names(config: Any) -> Names:
    return {
        f"{theirs}.{level}.{linear}": f"adapters.heads.{ours}.{level}.{our_linear}"
        for theirs, ours in HEADS.items()
        for level in range(len(config.blocks))
        for linear, our_linear in LINEARS.items()
    }


def facts(shapes: Shapes) -> Facts:
    return {"adapted levels": count_of(shapes, r"(?:seg|det)_adapters\.(\d+)\.")}


def facts_of(run: Experiment, dataset: str | None) -> Facts:
    config: Any = getattr(run, "config", None)
    return {
        "adapted levels": len(config.blocks),
        "setting": config.setting,
        **({"data set": dataset} if dataset else {}),
    }


def named(file: Path) -> Facts:
    """Published files are called `few-shot/Brain.pth`."""
    found: dict[str, str] = {}
    if file.stem in OBJECT_WORDS:
        found["data set"] = file.stem
    folder = file.resolve().parent.name
    if folder in SETTINGS:
        found["setting"] = SETTINGS[folder]
    return found


MVFA = Layout(
    name="mvfa",
    method="mvfa",
    system="MVFA",
    origin="code and weights: github.com/MediaBrain-SJTU/MVFA-AD (MIT)",
    trained="its support images, or zero-shot the test images of the other data sets",
    chosen="the epoch with the best result on the test set: results on that set are too good",
    mark=r"(seg|det)_adapters\.",
    names=names,
    facts=facts,
    facts_of=facts_of,
    left_out={},
    optional={},
    made_here=r"branch_ranges|text_features|localises|banks\..*",
    named=named,
)
