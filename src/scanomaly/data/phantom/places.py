"""Where something lies in a picture, in words that the picture alone can justify. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scanomaly.data.phantom.evidence import Region
from scanomaly.data.phantom.wordings import SIDES

SKULL_DEPTH = 0.18  # of the head's half width: bone and scalp end here
CORTEX_DEPTH = 0.33  # and the cortex of the convexity here
CENTRAL = 0.34  # half width of the middle of the head, of its half width
CENTRE = (0.34, 0.68)  # and its length, between front and back
VENTRICLES_BELOW = 32.0  # MNI z, mm: above it the middle of a slice shows no ventricles
TEMPORAL_BELOW = 17.0  # MNI z of the slice, mm
FRONTAL_BACK, OCCIPITAL_FRONT = 0.43, 0.74  # borders between front (0) and back (1)


def lobe_seen(region: Region, height_mm: float | None) -> str:
    """The part of the head, by thirds of its length; temporal in low slices, else parietal."""
    if region.back < FRONTAL_BACK:
        return "frontal"
    if region.back > OCCIPITAL_FRONT:
        return "occipital"
    if height_mm is None:
        return "temporoparietal"
    return "temporal" if height_mm < TEMPORAL_BELOW else "parietal"


def zone(region: Region, height_mm: float | None) -> str:
    """skull, cortex, centre (round the ventricles, where the slice has them) or tissue."""
    if region.depth < SKULL_DEPTH:
        return "skull"
    low = height_mm is None or height_mm < VENTRICLES_BELOW
    if low and abs(region.left) < CENTRAL and CENTRE[0] < region.back < CENTRE[1]:
        return "centre"
    return "cortex" if region.depth < CORTEX_DEPTH else "tissue"


@dataclass(frozen=True, slots=True)
class Place:
    """A side and a part: `left ` and `frontal region`, or `upper ` and `left part of the image`."""

    side: str
    part: str


def in_head(region: Region, height_mm: float | None) -> Place:
    """The left frontal sub-calvarial region, the bilateral periventricular region, ..."""
    where, side = zone(region, height_mm), SIDES[region.side]
    if where == "centre":
        return Place(side, "periventricular region")
    layer = {"cortex": "sub-calvarial ", "skull": "calvarial "}.get(where, "")
    return Place(side, f"{lobe_seen(region, height_mm)} {layer}region")


def in_picture(region: Region, height_mm: float | None) -> Place:
    """The upper right part of the image: for pictures of which nothing else is known."""
    level = "upper " if region.back < 1 / 3 else "lower " if region.back > 2 / 3 else "middle "
    across = "left" if region.left < -1 / 3 else "right" if region.left > 1 / 3 else "centre"
    return Place(level, f"{across} part of the image")


def in_words(places: Iterable[Place], most: int) -> str:
    """`the left frontal region and the midline periventricular region`; the first parts only.

    The same part on both sides is one bilateral place. Empty without places.
    """
    sides: dict[str, list[str]] = {}
    for place in places:
        sides.setdefault(place.part, []).append(place.side)
    said = [f"the {_one_side(found)}{part}" for part, found in sides.items()]
    return " and ".join(said[:most])


def _one_side(sides: Sequence[str]) -> str:
    return SIDES["both"] if {SIDES["left"], SIDES["right"]} <= set(sides) else sides[0]
