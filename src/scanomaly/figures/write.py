"""Run x data set -> PNG files and a table of their points: what `scanomaly figures` does."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scanomaly.data.manifest import Manifest
from scanomaly.errors import DataError
from scanomaly.figures.clouds import (
    PATCHES_OF_A_CLASS,
    Cloud,
    Kind,
    clouds,
    require_embeddings,
)
from scanomaly.figures.drawing import Projected, draw
from scanomaly.figures.projection import COMPONENTS, LEAST_POINTS, perplexity_of, project
from scanomaly.files import write_bytes, write_text
from scanomaly.fitting import assign_roles
from scanomaly.inference import FittedDetector
from scanomaly.report import MissingExtraError

ShownSplit = Literal["valid", "train"]
"""Never the test split: only `evaluate` sees it."""

SPLIT_WORDS: Mapping[ShownSplit, str] = {
    "valid": "validation images",
    "train": "training images",
}
POINT_WORDS: Mapping[Kind, str] = {
    "images": "Each point belongs to one image; features of its patches are averaged.",
    "patches": (
        f"Each point is a patch, up to {PATCHES_OF_A_CLASS} of each class of an image; abnormal: "
        "more than half of it."
    ),
}
POINTS: Mapping[Kind, str] = {"images": "image", "patches": "patch"}
MOST_IMAGES = 1000
COLUMNS = ("figure", "row", "column", "series", "id", "label", "trained", "x", "y")


def write_figures(
    fitted: FittedDetector,
    manifest: Manifest,
    out: Path,
    *,
    split: ShownSplit = "valid",
    kind: Kind = "images",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """A PNG for each figure the method has, and a table of all points; returns their paths.

    kind patches: every point is a patch, which needs masks. Raises ConfigError for a method that
    has nothing to show, DataError without enough labelled images, MissingExtraError and DiskError.
    """
    require_embeddings(fitted)
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            'figures need matplotlib, not installed here: pip install "scanomaly[report]".'
        )
    shown, note = shown_images(manifest, split, seed)
    taught = _taught(fitted, manifest)
    found = clouds(fitted, shown, kind, seed)
    panels: list[Projected] = []
    for cloud in found:
        own = np.array([shown.rows[index].id in taught for index in cloud.image])
        panels.append(Projected(cloud, _places(cloud, shown, seed), own))
        if progress:
            progress(len(panels), len(found))
    written: list[Path] = []
    for name in dict.fromkeys(cloud.figure for cloud in found):
        own_panels = [panel for panel in panels if panel.cloud.figure == name]
        title = f"{shown.dataset}, {note}: {name} of {fitted.run.preset}"
        written.append(out / f"tsne-{name}-{kind}.png")
        caption = _caption(fitted, own_panels, kind, seed)
        write_bytes(written[-1], draw(own_panels, title, caption, POINTS[kind]))
    written.append(out / f"points-{kind}.csv")
    write_text(written[-1], points_csv(panels, shown))
    return written


def shown_images(manifest: Manifest, split: ShownSplit, seed: int) -> tuple[Manifest, str]:
    """The labelled images of a split, at most MOST_IMAGES, and what they are, in words."""
    part = manifest.split(split)
    rows = [row for row in part if row.label is not None]
    if len(rows) < LEAST_POINTS:
        other = "train" if split == "valid" else "valid"
        raise DataError(
            f"{manifest.dataset}: expected at least {LEAST_POINTS} labelled images in {split} to "
            f"show, found {len(rows)} ({manifest.source}); add some, or take --split {other}. "
            "Figures never show the test split."
        )
    note = SPLIT_WORDS[split]
    if len(rows) > MOST_IMAGES:
        note += f", {MOST_IMAGES} of {len(rows)} at random"
        rows = sorted(random.Random(seed).sample(rows, MOST_IMAGES), key=lambda row: row.id)
    shown = replace(part, rows=tuple(rows))
    return shown, f"{note} ({len(shown.normals())} normal, {len(shown.abnormals())} abnormal)"


def _taught(fitted: FittedDetector, manifest: Manifest) -> frozenset[str]:
    """Ids of the images that the run was trained on, if they are of this data set."""
    try:
        roles = assign_roles(fitted.run, manifest)
    except DataError:
        return frozenset()  # another data set, which cannot even give such a training set
    if roles.trained_on != fitted.splits.get("trained"):
        return frozenset()
    return frozenset(row.id for row in roles.train)


def _places(cloud: Cloud, shown: Manifest, seed: int) -> NDArray[np.float64]:
    if len(cloud.vectors) < LEAST_POINTS:
        raise DataError(
            f"{shown.dataset}: expected at least {LEAST_POINTS} points for {cloud.row}, "
            f"{cloud.column}, found {len(cloud.vectors)}; give more images with masks."
        )
    return project(cloud.vectors, seed)


def _caption(fitted: FittedDetector, panels: Sequence[Projected], kind: Kind, seed: int) -> str:
    """What a reader must know before trusting the picture."""
    used = sorted({round(perplexity_of(len(panel.places))) for panel in panels})
    perplexity = " to ".join(map(str, dict.fromkeys((used[0], used[-1]))))
    ringed = any(panel.taught.any() for panel in panels)
    trained = fitted.splits.get("trained", "unknown images")
    return (
        f"{POINT_WORDS[kind]} Unit vectors, PCA to {COMPONENTS} dimensions at most, t-SNE with "
        f"perplexity {perplexity}, seed {seed}. t-SNE keeps neighbours, not distances; panels are "
        f"projected one by one. Trained on {trained}{' (dark rings)' if ringed else ''}. "
        "No test image is shown."
    )


def points_csv(panels: Sequence[Projected], shown: Manifest) -> str:
    """One line a point."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for panel in panels:
        cloud = panel.cloud
        for index, (x, y) in enumerate(panel.places):
            place = (cloud.figure, cloud.row, cloud.column, cloud.series[index])
            image = shown.rows[cloud.image[index]].id
            flags = int(cloud.label[index]), int(panel.taught[index])
            writer.writerow((*place, image, *flags, f"{x:.5g}", f"{y:.5g}"))
    return text.getvalue()
