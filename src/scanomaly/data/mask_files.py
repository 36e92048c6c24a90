"""Which mask file belongs to which image. Loads no torch."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from scanomaly.data.rows import Row
from scanomaly.errors import DataError

logger = logging.getLogger(__name__)


def _own_stem(mask: Path) -> str:
    return mask.stem


def match_masks(
    images: Sequence[Path],
    masks: Sequence[Path],
    stem_of: Callable[[Path], str] = _own_stem,
) -> dict[Path, Path]:
    """The mask of each image by file stem; of two with one stem the same full name is meant.

    stem_of: the stem of the image that a mask belongs to. Masks of no image are logged. Raises
    DataError when several masks could belong to an image.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        by_stem[stem_of(mask)].append(mask)
    matched: dict[Path, Path] = {}
    for image in images:
        candidates = by_stem.get(image.stem, [])
        same_name = [mask for mask in candidates if mask.name == image.name]
        if len(candidates) > 1 and not same_name:
            names = ", ".join(mask.name for mask in candidates)
            raise DataError(f"{image}: {names} could each be its mask; keep one of them.")
        if candidates:
            matched[image] = (same_name or candidates)[0]
    orphans = sorted(set(masks) - set(matched.values()))
    if orphans:
        logger.warning(
            "%s: %d masks belong to no image, for example %s.",
            orphans[0].parent,
            len(orphans),
            orphans[0].name,
        )
    return matched


def warn_missing(rows: Sequence[Row]) -> None:
    """Name the abnormal images without a mask, in a set where others have one."""
    abnormal = [row for row in rows if row.label]
    missing = [row.id for row in abnormal if row.mask is None]
    if missing and len(missing) < len(abnormal):
        logger.warning(
            "%d of %d abnormal images have no mask and count for no pixel metric: %s%s.",
            len(missing),
            len(abnormal),
            ", ".join(missing[:5]),
            ", ..." if missing[5:] else "",
        )
