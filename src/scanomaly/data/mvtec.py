"""Folders in the layout of MVTec AD (MVFA's in-domain table). Loads no torch.

train/good, test/good, test/<defect>, and ground_truth/<defect>/<stem>_mask.png.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scanomaly.data.listing import log_left_out, name_images, no_images, subfolders, walk
from scanomaly.data.mask_files import match_masks, warn_missing
from scanomaly.data.rows import Row, Split
from scanomaly.errors import DataError

_SPLITS: Mapping[str, Split] = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
_TRUTH = "ground_truth"
_GOOD = "good"

_EXPECTED = "train/good, test/good, test/<defect> and ground_truth/<defect>"


def is_set(root: Path) -> bool:
    """Whether `root` holds masks in `ground_truth` beside a split, as no BMAD layout does."""
    names = {path.name.lower() for path in subfolders(root)}
    return _TRUTH in names and not names.isdisjoint(_SPLITS)


def read_set(root: Path, dataset: str) -> tuple[list[Row], str]:
    """Rows of one MVTec-style set, sorted by id, and its layout in words.

    Every class but good is abnormal. Raises DataError for images that lie elsewhere, and when there
    are none.
    """
    images: dict[tuple[Split, str], list[Path]] = defaultdict(list)
    masks: dict[str, list[Path]] = defaultdict(list)
    others: list[Path] = []
    for folder in walk(root):
        others += folder.others
        if not folder.images:
            continue
        names = [*folder.names, "", ""][:2]
        top, kind = names[0].lower(), names[1]
        if len(folder.names) != 2 or top not in (*_SPLITS, _TRUTH):
            raise DataError(
                f"{folder.path}: {len(folder.images)} images lie where a set with {_TRUTH} has "
                f"none; expected {_EXPECTED}, or describe the images in a CSV manifest."
            )
        if top == _TRUTH:
            masks[kind] += folder.images
        else:
            images[_SPLITS[top], kind] += folder.images
    if not images:
        raise no_images(root, others)
    log_left_out(root, others)
    rows = [
        row
        for (split, kind), files in images.items()
        for row in _rows(root, dataset, split, kind, files, masks[kind] if split == "test" else ())
    ]
    rows.sort(key=lambda row: row.id)
    warn_missing(rows)
    defects = {kind for _, kind in images if kind.lower() != _GOOD}
    return rows, f"MVTec layout: {len(defects)} kinds of defect"


def _rows(
    root: Path,
    dataset: str,
    split: Split,
    kind: str,
    images: Sequence[Path],
    masks: Sequence[Path],
) -> Iterator[Row]:
    """The rows of one split and class."""
    matched = match_masks(images, masks, lambda mask: mask.stem.removesuffix("_mask"))
    names = name_images([(root, image) for image in images])
    for name, image in zip(names, images, strict=True):
        yield Row(
            id=name,
            path=image,
            split=split,
            label=kind.lower() != _GOOD,
            mask=matched.get(image),
            dataset=dataset,
            kind=None if kind.lower() == _GOOD else kind,
        )
