"""Stained tissue: sections in hematoxylin and eosin, with dense clusters of large dark nuclei.

Two densities are drawn, of hematoxylin (nuclei) and of eosin (all else); light passes both.
S image side, N nuclei.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from scanomaly.data.phantom.fields import FloatArray, smoothstep
from scanomaly.data.phantom.patient import SIDE
from scanomaly.data.phantom.simulate import DATA_SET
from scanomaly.data.phantom.styles.canvas import (
    COLUMNS,
    ROWS,
    blob,
    paint,
    smooth_field,
    texture,
    to_image,
)
from scanomaly.data.phantom.styles.style import SLICES, Identity, Style, StyledSlice, identify

HEMATOXYLIN = np.array([0.65, 0.70, 0.29], dtype=np.float32)  # optical density of R, G, B
EOSIN = np.array([0.10, 0.85, 0.22], dtype=np.float32)
REACH = 7  # pixels from a nucleus's centre to the edge of its patch
SLICE_GAP = 5.0  # pixels between neighbouring sections
CLUSTER_SPACING = 5.2  # pixels between the nuclei of a cluster, at magnification 1


@dataclass(frozen=True, slots=True)
class Tissue:
    """What a kind of tissue is made of: shares 0..1 of a place that holds a nucleus."""

    words: str
    stroma: float
    epithelium: float
    glands: float  # share of cells of the gland mosaic that are glands
    fat: float  # share of the mosaic's cells that are fat
    fibres: float  # contrast of the eosin stain


TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "glands": Tissue("glandular tissue", 0.30, 0.95, 0.8, 0.0, 0.25),
        "fibres": Tissue("connective tissue", 0.25, 0.8, 0.0, 0.0, 0.5),
        "fat": Tissue("fatty tissue", 0.20, 0.8, 0.0, 0.65, 0.25),
        "lymph": Tissue("lymphoid tissue", 0.92, 0.9, 0.0, 0.08, 0.15),
    }
)
KINDS = ("cluster", "scattered clusters", "band")


@dataclass(frozen=True, slots=True)
class Block:
    """One patient's tissue block and its staining."""

    identity: Identity
    tissue: Tissue
    magnification: float  # size of everything
    hematoxylin: FloatArray  # (3,) optical density
    eosin: FloatArray  # (3,)
    strength: tuple[float, float]  # of both stains
    nucleus: float  # radius of a nucleus, pixels
    density: float  # factor of the shares that hold a nucleus
    spacing: float  # pixels between places for nuclei
    cell: float  # pixels between neighbours of the gland mosaic
    grain: float  # direction of the fibres, radians
    lumen: tuple[float, float]  # radii of lumen and gland relative to `cell`
    offset: FloatArray  # (3,) part of the noise volume
    light: float
    blur: float


@dataclass(frozen=True, slots=True)
class Nuclei:
    """places: (N, 2) row, column; axes: (N, 2) half axes; angles, tones: (N,)."""

    places: FloatArray
    axes: FloatArray
    angles: FloatArray
    tones: FloatArray

    def density(self, keep: FloatArray) -> FloatArray:
        """Optical density (S, S) of those whose place in keep (S, S) exceeds one half."""
        where = np.clip(np.round(self.places), 0, SIDE - 1).astype(np.int64)
        shown = keep[where[:, 0], where[:, 1]] > 0.5
        places, axes = self.places[shown], self.axes[shown]
        angles, tones = self.angles[shown], self.tones[shown]
        steps = np.arange(-REACH, REACH + 1)
        rows = where[shown, 0][:, None, None] + steps[None, :, None]
        columns = where[shown, 1][:, None, None] + steps[None, None, :]
        down = rows - places[:, 0, None, None]
        right = columns - places[:, 1, None, None]
        cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
        first = (down * cos + right * sin) / axes[:, 0, None, None]
        second = (right * cos - down * sin) / axes[:, 1, None, None]
        reach = np.hypot(first, second)
        rim = 0.75 + 0.35 * np.clip(reach, 0, 1) ** 2  # chromatin lies along the membrane
        values = smoothstep((1.2 - reach) * 2.5) * rim * tones[:, None, None]
        padded = np.zeros((SIDE + 2 * REACH, SIDE + 2 * REACH), dtype=np.float32)
        flat = ((rows + REACH) * padded.shape[1] + columns + REACH).ravel()
        np.maximum.at(padded.reshape(-1), flat, values.astype(np.float32).ravel())
        return padded[REACH:-REACH, REACH:-REACH]


def make_block(seed: int, index: int, *, slices: int = SLICES, family: int = DATA_SET) -> Block:
    """Draws one patient."""
    identity = identify("tissue", seed, index, slices, family)
    rng = identity.anatomy()
    name = str(rng.choice(list(TISSUES), p=(0.35, 0.25, 0.15, 0.25)))
    magnification = float(rng.choice((0.8, 1.0, 1.3)))
    return Block(
        identity=identity,
        tissue=TISSUES[name],
        magnification=magnification,
        hematoxylin=(HEMATOXYLIN + rng.normal(0, 0.05, 3)).astype(np.float32),
        eosin=(EOSIN + rng.normal(0, 0.06, 3)).astype(np.float32).clip(0.03),
        strength=(rng.uniform(0.75, 1.45), rng.uniform(0.3, 0.9)),
        nucleus=magnification * rng.uniform(1.9, 2.6),
        density=rng.uniform(0.6, 1.1),
        spacing=magnification * rng.uniform(5.6, 7.2),
        cell=magnification * rng.uniform(34, 52),
        grain=rng.uniform(0, np.pi),
        lumen=(rng.uniform(0.1, 0.24), rng.uniform(0.34, 0.46)),
        offset=rng.random(3).astype(np.float32),
        light=rng.uniform(0.9, 0.99),
        blur=rng.uniform(0.4, 0.8),
    )


def _grid(rng: np.random.Generator, spacing: float, jitter: float) -> FloatArray:
    """Places (N, 2) on a shaken hexagonal grid a little larger than the image."""
    count = int(SIDE / spacing) + 3
    rows, columns = np.meshgrid(np.arange(-1, count), np.arange(-1, count), indexing="ij")
    columns = columns + 0.5 * (rows % 2)
    places = np.stack([rows.ravel(), columns.ravel()], -1) * spacing
    return np.asarray(places + rng.normal(0, jitter * spacing, places.shape), dtype=np.float32)


def _nuclei(
    rng: np.random.Generator, places: FloatArray, radius: float, stretch: float, tone: float
) -> Nuclei:
    count = len(places)
    sizes = radius * np.exp(rng.normal(0, 0.15, count))
    ratios = np.exp(np.abs(rng.normal(0, stretch, count)) / 2)
    axes = np.clip(np.stack([sizes * ratios, sizes / ratios], -1), 0.8, REACH - 1)
    tones = tone * np.exp(rng.normal(0, 0.15, count))
    angles = rng.uniform(0, np.pi, count)
    return Nuclei(
        places, axes.astype(np.float32), angles.astype(np.float32), tones.astype(np.float32)
    )


@dataclass(frozen=True, slots=True)
class Ground:
    """Everything but nuclei. (S, S) each: eosin density, share that holds nuclei, emptiness."""

    eosin: FloatArray
    share: FloatArray
    empty: FloatArray


def _mosaic(block: Block, depth: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Distance (S, S) to the nearest cell's middle in cells, to its border, and its lot 0..1."""
    rng = block.identity.anatomy(1)
    seeds = _grid(rng, block.cell, 0.16)
    bend = 0.1 * block.cell * smooth_field(block.offset, 16.0, depth)
    down = (ROWS + bend[..., 0])[..., None] - seeds[:, 0]
    right = (COLUMNS + bend[..., 1])[..., None] - seeds[:, 1]
    squared = down**2 + right**2  # (S, S, cells)
    nearest = squared.argmin(axis=-1)
    two = np.sqrt(np.partition(squared, 1, axis=-1)[..., :2]).astype(np.float32)
    two /= np.float32(block.cell)
    lots = rng.random(len(seeds)).astype(np.float32)
    return two[..., 0], np.asarray(two[..., 1] - two[..., 0]), np.asarray(lots[nearest])


def _ground(block: Block, index: int) -> Ground:
    """Fibres, glands with lumen, fat, gaps."""
    tissue, depth = block.tissue, SLICE_GAP * index
    wide = smooth_field((block.offset + np.float32(0.5)) % 1, 30.0, depth)
    cos, sin = np.cos(block.grain), np.sin(block.grain)
    waves = (ROWS * cos + COLUMNS * sin) / (2.2 * block.magnification) + 5.0 * wide[..., 0]
    fibres = np.sin(waves) + 0.5 * np.sin(2.1 * waves + 3 * wide[..., 1])
    eosin = 1 + tissue.fibres * 0.6 * fibres + 0.15 * wide[..., 2]
    share = tissue.stroma * (1 + 0.25 * wide[..., 1])
    empty = smoothstep((np.abs(wide[..., 0] + 0.3 * fibres) - 2.1) * 4)
    middle, border, lot = _mosaic(block, depth)
    soft = np.float32(0.04)
    gland = lot < tissue.glands
    ring = gland * smoothstep(0.5 + (block.lumen[1] - middle) / soft)
    hole = gland * smoothstep(0.5 + (block.lumen[0] - middle) / soft)
    share = share * (1 - ring) + tissue.epithelium * ring * (middle > block.lumen[1] - 0.17)
    eosin = eosin * (1 - ring) + 0.75 * ring
    fat = (lot > 1 - tissue.fat) * smoothstep(0.5 + (border - 0.08) / soft)
    empty = np.maximum(empty, np.maximum(hole, fat))
    return Ground(np.clip(eosin, 0.1, 2), share * (1 - empty), empty)


def _healthy_nuclei(block: Block, ground: Ground, index: int) -> tuple[Nuclei, FloatArray]:
    """Candidates, and where (S, S) one is kept: chance below the share."""
    rng = block.identity.noise(index)
    places = _grid(rng, block.spacing, 0.22)
    stretch = 0.25 if block.tissue.stroma > 0.5 else 0.6
    chance = rng.random((SIDE, SIDE), dtype=np.float32)
    keep = (chance < ground.share * block.density).astype(np.float32)
    return _nuclei(rng, places, block.nucleus, stretch, 0.8), keep


def _cluster(block: Block, index: int) -> tuple[FloatArray, str]:
    """Extent (S, S) of the abnormal nuclei and the kind."""
    kind = str(block.identity.lesion().choice(KINDS, p=(0.5, 0.3, 0.2)))
    rng = block.identity.lesion(index)
    sizes: Mapping[str, tuple[int, float, float]] = {
        "cluster": (1, 20, 42),
        "scattered clusters": (int(rng.integers(2, 5)), 10, 19),
        "band": (int(rng.integers(4, 6)), 10, 16),
    }
    count, low, high = sizes[kind]
    start, way = rng.uniform(25, SIDE - 25, 2), rng.uniform(0, 2 * np.pi)
    extent = np.zeros((SIDE, SIDE), dtype=np.float32)
    for number in range(count):
        step = 15.0 * number * np.array([np.cos(way), np.sin(way)])
        place = start + step if kind == "band" else rng.uniform(20, SIDE - 20, 2)
        row, column = np.clip(place, 8, SIDE - 8)
        shape = blob(rng, (float(row), float(column)), rng.uniform(low, high), 0.18, edge=4.0)
        extent = np.maximum(extent, shape)
    return extent, kind


def _stained(block: Block, nuclei: FloatArray, ground: Ground, index: int) -> FloatArray:
    """Light (S, S, 3) that passes both stains."""
    rng = block.identity.noise(index + block.identity.slices)
    mottle = 1 + 0.12 * texture(rng, 0.9)
    eosin = block.strength[1] * ground.eosin * (1 - 0.97 * ground.empty) * mottle
    blue = block.strength[0] * (nuclei * mottle + 0.06 * (1 - ground.empty))
    density = (
        blue[..., None] * block.hematoxylin
        + (eosin * (1 - 0.6 * nuclei.clip(0, 1)))[..., None] * block.eosin
    )
    light = block.light * np.exp(-density)
    light = cv2.GaussianBlur(light, (5, 5), block.blur)
    return np.asarray(light + 0.008 * texture(rng, 0.4)[..., None], dtype=np.float32)


def _section(block: Block, index: int, extent: FloatArray, kind: str) -> StyledSlice:
    """One section; inside the extent the ground gives way to crowded nuclei."""
    block.identity.position(index)
    ground = _ground(block, index)
    nuclei, keep = _healthy_nuclei(block, ground, index)
    density = nuclei.density(keep * (extent < 0.5))
    if kind:
        rng = block.identity.lesion(index, 1)
        places = _grid(rng, CLUSTER_SPACING * block.magnification * rng.uniform(0.95, 1.25), 0.2)
        radius = block.nucleus * rng.uniform(1.2, 1.5)
        crowd = _nuclei(rng, places, radius, 0.35, rng.uniform(0.85, 1.1))
        density = np.maximum(density, crowd.density(extent))
        empty = ground.empty.copy()
        paint(empty, extent, 0.0)
        eosin = ground.eosin.copy()
        paint(eosin, extent, 0.7)
        ground = Ground(eosin, ground.share, empty)
    facts = _facts(block, index)
    return StyledSlice(
        patient=block.identity.name,
        index=index,
        image=to_image(_stained(block, density, ground, index)),
        mask=extent > 0.5,
        facts=facts,
        cells={"anatomy": facts["anatomy"], "level": facts["level"]},
        finding={"kind": kind} if kind else {},
    )


def _facts(block: Block, index: int) -> dict[str, str]:
    powers = {0.8: "low magnification", 1.0: "medium magnification", 1.3: "high magnification"}
    return {
        "modality": "stained tissue",
        "contrast": "hematoxylin and eosin",
        "plane": "thin section",
        "level": powers[block.magnification],
        "anatomy": block.tissue.words,
    }


def healthy_slice(block: Block, index: int) -> StyledSlice:
    """One section without clusters."""
    return _section(block, index, np.zeros((SIDE, SIDE), dtype=np.float32), "")


def diseased_slice(block: Block, index: int) -> StyledSlice | None:
    """The same section with clusters of large dark nuclei."""
    return _section(block, index, *_cluster(block, index))


TISSUE = Style(
    name="Stained_Tissue",
    title="Stained tissue with clusters of dark nuclei (simulated)",
    has_masks=True,
    columns=("anatomy", "level", "kind"),
    subject=make_block,
    healthy=healthy_slice,
    diseased=diseased_slice,
)
