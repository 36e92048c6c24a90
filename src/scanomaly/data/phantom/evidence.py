"""What an anomaly map and a reconstruction show, measured and put in place. Loads no torch.

H W pixels. Pictures are read as a radiologist does: the patient's right is on the left, the front
is up.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from scanomaly.data.phantom.fields import BoolArray, FloatArray

MARKED_ABOVE = 0.6  # of a calibrated map: what is bright in its picture
FOREGROUND = 0.12  # of the bright end of a picture: above it is head
SMALLEST_REGION = 0.0012  # of the head's area: smaller marks are not spoken of
NEAR = 0.03  # of the head's height: marks so close to the truth belong to it
MIDLINE = 0.1  # of half the head's width: what stays within is called midline
FULLY, PARTLY = 0.6, 0.15  # share of an anomaly that is marked
REMOVED, WEAKENED = 0.55, 0.85  # share of an anomaly that is left in the reconstruction
BLURRED = 0.76  # of the picture's sharpness
ALTERED = 0.08  # mean difference away from the anomaly, relative to the head's mean


@dataclass(frozen=True)
class Evidence:
    """The pictures of one case, all (H, W): float in 0..1; the map on its calibrated scale.

    threshold: map values above it count as marked; MARKED_ABOVE is a good one. mask: what is
    abnormal, None where unknown. healthy: the same head without the anomaly, where a simulation
    knows it.
    """

    image: FloatArray
    anomaly_map: FloatArray
    threshold: float
    reconstruction: FloatArray
    mask: BoolArray | None = None
    healthy: FloatArray | None = None

    def __post_init__(self) -> None:
        shapes = {
            name: value.shape for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        if len(set(shapes.values())) != 1 or self.image.ndim != 2:
            raise ValueError(f"expected grey pictures (H, W) of one size, got {shapes}.")

    @cached_property
    def marked(self) -> BoolArray:
        """Where the map is above its threshold."""
        return np.asarray(self.anomaly_map > self.threshold)

    @cached_property
    def head(self) -> BoolArray:
        """The head, filled: the largest bright part of the picture; all of an empty picture."""
        bright = self.image > FOREGROUND * np.percentile(self.image, 98)
        parts, count = ndimage.label(ndimage.binary_opening(bright, iterations=2))
        if not count:
            return np.ones_like(bright)
        largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
        return np.asarray(ndimage.binary_fill_holes(largest))

    @cached_property
    def frame(self) -> "Frame":
        return Frame.around(self.head)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the head lies: middle column, front row, half width and height in pixels; depth.

    depth: (H, W) distance to the head's border over its half width, 0 outside.
    """

    middle: float
    front: float
    half_width: float
    height: float
    depth: FloatArray

    @classmethod
    def around(cls, head: BoolArray) -> "Frame":
        rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
        half = max((columns[-1] - columns[0]) / 2, 1.0)
        depth = ndimage.distance_transform_edt(head) / half
        return cls(
            middle=(columns[0] + columns[-1]) / 2,
            front=float(rows[0]),
            half_width=half,
            height=max(float(rows[-1] - rows[0]), 1.0),
            depth=np.asarray(depth, dtype=np.float32),
        )


@dataclass(frozen=True, slots=True)
class Region:
    """A mark, in parts of the head: half its width across, its length from front to back.

    left: of its middle, to the patient's left, -1..1. spread: mean distance of its pixels from the
    midline. back: of its middle, 0 in front, 1 at the back. depth: below the head's border.
    on_left: share of its pixels on the patient's left.
    """

    pixels: BoolArray
    left: float
    spread: float
    back: float
    depth: float
    on_left: float

    @property
    def side(self) -> str:
        """left, right, both or midline."""
        if self.on_left >= 0.8 or self.on_left <= 0.2:
            return "left" if self.on_left >= 0.8 else "right"
        return "midline" if self.spread < MIDLINE else "both"


def regions(evidence: Evidence, marked: BoolArray) -> list[Region]:
    """Connected parts of a mark (H, W) that are large enough to mention, largest first."""
    labels, count = ndimage.label(marked, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    enough = max(SMALLEST_REGION * evidence.head.sum(), 3)
    order = np.argsort(-sizes, kind="stable")
    return [region_of(evidence, labels == 1 + k) for k in order if sizes[k] >= enough]


def region_of(evidence: Evidence, pixels: BoolArray) -> Region:
    """Where pixels (H, W) lie, connected or not; there must be some."""
    frame = evidence.frame
    rows, columns = np.nonzero(pixels)
    left = (columns - frame.middle) / frame.half_width
    return Region(
        pixels=pixels,
        left=float(left.mean()),
        spread=float(np.abs(left).mean()),
        back=float((rows.mean() - frame.front) / frame.height),
        depth=float(np.median(frame.depth[pixels])),
        on_left=float((left > 0).mean()),
    )


def false_positives(evidence: Evidence) -> list[Region]:
    """Marks away from all that is abnormal, largest first. The mask must be known.

    What abnormal pixels enclose, such as ventricles that have grown, is no healthy place either.
    """
    near = _known(evidence)
    if near.any():
        reach = max(round(NEAR * evidence.frame.height), 1)
        closed = ndimage.binary_closing(np.pad(near, reach), iterations=reach)
        whole = ndimage.binary_fill_holes(closed)[reach:-reach, reach:-reach]
        near = ndimage.binary_dilation(whole, iterations=reach)
    return regions(evidence, evidence.marked & ~near)


def coverage(evidence: Evidence) -> float:
    """Share of the abnormal pixels that is marked, 0..1. The mask must be known and not empty."""
    return float(evidence.marked[_known(evidence)].mean())


def foci(evidence: Evidence) -> tuple[int, int]:
    """(marked, in all): separate abnormal spots that are large enough to speak of."""
    found = regions(evidence, _known(evidence))
    return sum(evidence.marked[spot.pixels].mean() > PARTLY for spot in found), len(found)


def _known(evidence: Evidence) -> BoolArray:
    if evidence.mask is None:
        raise ValueError("expected a mask, got None; ask only what needs none.")
    return evidence.mask


def remaining(evidence: Evidence) -> float:
    """How much of the anomaly the reconstruction still shows, 0 (nothing) to 1 and more.

    Against the healthy picture where it is known; else by how much more the reconstruction differs
    from the picture inside the mask than outside.
    """
    mask = _known(evidence)
    if evidence.healthy is not None:
        left = np.abs(evidence.reconstruction - evidence.healthy)[mask].mean()
        return float(left / max(np.abs(evidence.image - evidence.healthy)[mask].mean(), 1e-6))
    change = np.abs(evidence.reconstruction - evidence.image)
    outside = change[evidence.head & ~mask]
    usual = float(outside.mean()) if outside.size else 0.0
    return float(min(usual / max(float(change[mask].mean()), 1e-6), 1.0))


def sharpness(evidence: Evidence) -> float:
    """Edges of the reconstruction over those of the picture, off the anomaly; 1 = as sharp."""
    calm = ndimage.binary_erosion(_calm(evidence), iterations=2)
    pictures = (evidence.reconstruction, evidence.image)
    edges = [ndimage.gaussian_gradient_magnitude(p, 1.0)[calm].mean() for p in pictures]
    return float(edges[0] / max(edges[1], 1e-6))


def alteration(evidence: Evidence) -> float:
    """Mean difference of reconstruction and picture away from the anomaly, over the head's mean."""
    calm = _calm(evidence)
    smooth = [ndimage.gaussian_filter(p, 2.0) for p in (evidence.reconstruction, evidence.image)]
    change = np.abs(smooth[0] - smooth[1])[calm].mean()
    return float(change / max(evidence.image[calm].mean(), 1e-6))


def _calm(evidence: Evidence) -> BoolArray:
    """The head without the anomaly and its neighbourhood."""
    if evidence.mask is None or not evidence.mask.any():
        return evidence.head
    near: BoolArray = ndimage.binary_dilation(evidence.mask, iterations=4)
    return evidence.head & ~near


def typical(evidence: Evidence, pixels: BoolArray, *, of_reconstruction: bool = False) -> float:
    """Mean there of the picture, or of the reconstruction, over the median of the head."""
    shown = evidence.reconstruction if of_reconstruction else evidence.image
    level = float(np.median(evidence.image[evidence.head]))
    return float(shown[pixels].mean()) / max(level, 1e-6)
