"""The images that a report shows, chosen by score, with all that is known of each.

S method's side, H W pixels of the file
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scanomaly.data.images import as_bytes, read_image, read_mask
from scanomaly.data.manifest import Manifest, Row
from scanomaly.data.transform import Geometry
from scanomaly.inference import FittedDetector, Scored

PANELS_OF_A_KIND = 4
PANEL_KINDS = ("hit", "miss", "false alarm", "correct rejection")
PART_RANGE_QUANTILES = (0.95, 0.999)
"""Of the pixels of one map: what is shown as nothing, and its highest values."""


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """One line of predictions.csv."""

    id: str
    patient: str | None
    label: bool | None
    score: float
    p_value: float | None
    flagged: bool | None


@dataclass(frozen=True, slots=True)
class Panel:
    """One row of pictures: everything on the file's own grid, parts on request.

    image: uint8 (H, W, 3). anomaly_map: float (H, W), scaled so that 0..1 is the calibrated range.
    reconstruction: uint8 (H, W, 3). truth: bool (H, W). Both None where there is none.
    part_maps: float (S, S) of branches and levels, each scaled to its range over all panels;
    part_scores: in their own units.
    """

    kind: str
    scored: ScoredImage
    image: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32]
    reconstruction: NDArray[np.uint8] | None
    truth: NDArray[np.bool_] | None
    part_maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    part_scores: Mapping[str, float] = field(default_factory=dict)
    geometry: Geometry | None = None
    """From the method's grid to the file's; needed for part_maps only."""

    def part_map(self, name: str) -> NDArray[np.float32]:
        """A map of `part_maps` on the file's grid (H, W): many large ones would not fit."""
        assert self.geometry is not None  # as stated above
        return self.geometry.to_input_grid(self.part_maps[name])


def choose_panels(
    fitted: FittedDetector, test: Manifest, rows: Sequence[ScoredImage]
) -> tuple[Panel, ...]:
    """The clearest hits and rejections, the worst misses and false alarms.

    rows: of the images of `test`, in their order. These few are scored once more.
    """
    threshold = np.median([row.score for row in rows])

    def flagged(row: ScoredImage) -> bool:
        return row.score > threshold if row.flagged is None else row.flagged

    kinds = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}
    chosen: list[tuple[str, int]] = []
    for (label, flag), kind in kinds.items():
        found = [i for i, row in enumerate(rows) if row.label == label and flagged(row) == flag]
        found.sort(key=lambda i: rows[i].score, reverse=flag)
        chosen += [(PANEL_KINDS[kind], i) for i in found[:PANELS_OF_A_KIND]]
    subset = replace(test, rows=tuple(test.rows[i] for _, i in chosen))
    images = list(fitted.score_rows(subset, with_parts=True))
    ranges = _part_ranges(images)
    return tuple(
        _panel(fitted, kind, rows[i], one, ranges)
        for (kind, i), one in zip(chosen, images, strict=True)
    )


Ranges = Mapping[str, tuple[float, float]]
"""Name of a map -> the values shown as 0 and 1."""


def _part_ranges(images: Sequence[Scored]) -> Ranges:
    """Units differ between maps, so each has a range: quiet where normal images mostly are."""
    calm = [one for one in images if one.row.label is False] or images
    names = dict.fromkeys(name for one in images for name in one.part_maps)
    return {name: (_typical(name, calm), _highest(name, images)) for name in names}


def _typical(name: str, images: Iterable[Scored]) -> float:
    quiet = PART_RANGE_QUANTILES[0]
    return float(np.median([np.quantile(one.part_maps[name], quiet) for one in images]))


def _highest(name: str, images: Iterable[Scored]) -> float:
    high = PART_RANGE_QUANTILES[1]
    return float(np.max([np.quantile(one.part_maps[name], high) for one in images]))


def _panel(
    fitted: FittedDetector, kind: str, line: ScoredImage, one: Scored, ranges: Ranges
) -> Panel:
    return Panel(
        kind=kind,
        scored=line,
        image=as_bytes(read_image(one.row.path, fitted.run.data.window)),
        anomaly_map=fitted.scaled(one.geometry.to_input_grid(one.anomaly_map)),
        reconstruction=one.reconstruction_on_input_grid(),
        truth=native_mask(one.row, one.geometry.size),
        part_maps={
            name: (part - ranges[name][0]) / max(ranges[name][1] - ranges[name][0], 1e-12)
            for name, part in one.part_maps.items()
        },
        part_scores=one.part_scores,
        geometry=one.geometry,
    )


def native_mask(row: Row, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """A row's mask on the file's grid; zeros for a normal image, None when unknown."""
    if row.mask is not None:
        return read_mask(row.mask, size, row.path)
    return np.zeros(size, bool) if row.label is False else None
