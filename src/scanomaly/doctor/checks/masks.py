"""Masks: the right ones, of the right size, with something in them; images that are masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from scanomaly.data.bmad import BMAD_SETS
from scanomaly.doctor.facts import FEW_LEVELS, Facts
from scanomaly.doctor.findings import Finding
from scanomaly.doctor.survey import Survey

_MASK_STEM = re.compile(r".*[_-](mask|label|seg|gt|segmentation|ground_?truth)", re.IGNORECASE)
_PICTURE_LEVELS = 64
"""A mask of more grey levels is a picture, or has been through lossy compression."""
_ALMOST_ALL = 0.9
"""Share of an image that no lesion covers; a mask that does is likely inverted."""


def masks_as_images(survey: Survey) -> Iterator[Finding]:
    """Images that are masks by content, by being some image's mask, or by name."""
    masks = {mask.digest for _, _, mask in survey.masks()}
    images = [facts for _, facts in survey.images() if not facts.is_constant]
    sure = [f for f in images if f.levels <= FEW_LEVELS or f.digest in masks]
    if sure:
        yield Finding(
            "error",
            "mask as image",
            f"{len(sure)} images look like masks: no more than {FEW_LEVELS} grey levels, or the "
            "same picture as a mask",
            "move them to the mask folder (label or anomaly_mask), or name them in the manifest's "
            "mask column.",
            survey.some(facts.path for facts in sure),
        )
    known = {facts.path for facts in sure}
    named = [f for f in images if f.path not in known and _MASK_STEM.fullmatch(f.path.stem)]
    if named:
        yield Finding(
            "warning",
            "mask as image",
            f"{len(named)} images are named like masks",
            "look at them; masks belong in a mask folder.",
            survey.some(facts.path for facts in named),
        )


def missing_masks(survey: Survey) -> Iterator[Finding]:
    """Abnormal images without a mask."""
    abnormal = [row for row in survey.manifest if row.label]
    bare = [row for row in abnormal if row.mask is None]
    if not bare:
        return
    known = BMAD_SETS.get(survey.manifest.dataset)
    if len(bare) == len(abnormal) and not (known and known.has_masks):
        yield Finding(
            "note",
            "missing mask",
            "no abnormal image has a mask: image metrics only",
            "nothing to do, if the set was published so.",
        )
        return
    yield Finding(
        "warning",
        "missing mask",
        f"{len(bare)} of {len(abnormal)} abnormal images have no mask and count for no pixel "
        "metric",
        "add the masks under the image's own file name; few-shot methods refuse supports without.",
        survey.some(row.path for row in bare),
    )


def mask_sizes(survey: Survey) -> Iterator[Finding]:
    """Masks of another size than their image."""
    wrong = [
        (image, mask)
        for _, image, mask in survey.masks()
        if (image.height, image.width) != (mask.height, mask.width)
    ]
    if wrong:
        image, mask = wrong[0]
        yield Finding(
            "error",
            "mask size",
            f"{len(wrong)} masks are of another size than their image, such as "
            f"{mask.height}x{mask.width} for {image.height}x{image.width}",
            "export image and mask on one grid; resize masks with nearest neighbour.",
            survey.some(mask.path for _, mask in wrong),
        )


def mask_contents(survey: Survey) -> Iterator[Finding]:
    """Empty masks of abnormal images, marked normal ones, masks of nearly everything."""
    masks = survey.masks()
    empty = [mask for row, _, mask in masks if row.label and mask.positive == 0]
    if empty:
        yield Finding(
            "warning",
            "empty mask",
            f"{len(empty)} abnormal images have an empty mask",
            "check the label; an abnormal image that marks nothing counts as normal pixels.",
            survey.some(mask.path for mask in empty),
        )
    marked = [mask for row, _, mask in masks if row.label is False and mask.positive > 0]
    if marked:
        yield Finding(
            "error",
            "mask of normal image",
            f"{len(marked)} normal images have a mask that marks something",
            "label or mask is wrong: mend one of them.",
            survey.some(mask.path for mask in marked),
        )
    full = [m for row, _, m in masks if row.label is not False and m.positive > _ALMOST_ALL]
    if full:
        yield Finding(
            "warning",
            "inverted mask",
            f"{len(full)} masks mark more than {_ALMOST_ALL:.0%} of their image",
            "check that the lesion is above 0 and the rest is 0, not the other way round.",
            survey.some(mask.path for mask in full),
        )


def mask_levels(survey: Survey) -> Iterator[Finding]:
    """Masks of more than two levels; pictures that were given as masks; JPEG."""
    masks = [mask for _, _, mask in survey.masks()]
    images = {facts.digest for _, facts in survey.images() if not facts.is_constant}
    pictures = [m for m in masks if m.levels > _PICTURE_LEVELS or m.digest in images]
    lossy = [mask for mask in masks if mask.kind == "JPEG"]
    if pictures and len(lossy) < len(pictures):
        yield Finding(
            "error",
            "image as mask",
            f"{len(pictures)} masks look like images: more than {_PICTURE_LEVELS} grey levels, or "
            "the same picture as an image",
            "give the mask files; everything above 0 would count as abnormal.",
            survey.some(mask.path for mask in pictures),
        )
    if lossy:
        yield Finding(
            "warning",
            "lossy mask",
            f"{len(lossy)} masks are JPEG, which leaves values above 0 around a lesion",
            "store masks as PNG.",
            survey.some(mask.path for mask in lossy),
        )
    several = [m for m in masks if 2 < m.levels <= _PICTURE_LEVELS and m.kind != "JPEG"]
    if several:
        yield Finding(
            "note",
            "multi-level mask",
            f"{len(several)} masks have more than two levels ({_levels(several)}); everything "
            "above 0 counts as abnormal",
            "binarise them first if some levels are not the lesion.",
            survey.some(mask.path for mask in several),
        )


def shared_masks(survey: Survey) -> Iterator[Finding]:
    """One mask file for several images."""
    uses = Counter(row.mask for row in survey.manifest if row.mask is not None and row.label)
    shared = [mask for mask, count in uses.items() if count > 1]
    if shared:
        yield Finding(
            "warning",
            "shared mask",
            f"{len(shared)} mask files are named by several abnormal images",
            "check the manifest's mask column.",
            survey.some(shared),
        )


def _levels(masks: list[Facts]) -> str:
    """The most frequent sets of levels, in words."""
    common = Counter(mask.values for mask in masks).most_common(2)
    return "; ".join(", ".join(f"{value:g}" for value in values) for values, _ in common)
