"""Lesions: what each kind is made of, where it may lie and how it shows in each MR contrast.

N brain pixels of a slice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol, Self

import numpy as np

from scanomaly.data.phantom.fields import BoolArray, FloatArray, smoothstep
from scanomaly.data.phantom.patient import SliceField
from scanomaly.data.phantom.shapes import Blob, draw_blob

EDGE_MM = 2.0  # width of a lesion's soft edge
CONTRAST_RANGE = (0.15, 0.5)  # change relative to the local tissue
TYPICAL_CONTRAST = 0.3  # before scaling: keeps a lesion's texture in proportion
DIAMETER_RANGE = (4.0, 40.0)  # mm

# Sign and relative strength of the change in each MR contrast, (low, high) of a uniform draw.
Look = Mapping[str, tuple[float, float]]
OEDEMA: Look = {"T1": (-0.8, -0.5), "T2": (0.7, 1.0), "FLAIR": (0.8, 1.0)}
SOLID: Look = {"T1": (-1.0, -0.7), "T2": (0.6, 1.0), "FLAIR": (0.6, 1.0)}
ENHANCING: Look = {"T1": (0.8, 1.0), "T2": (0.3, 0.7), "FLAIR": (0.5, 0.9)}
NECROSIS: Look = {"T1": (-1.2, -0.8), "T2": (1.0, 1.2), "FLAIR": (-0.9, -0.4)}
FLUID: Look = {"T1": (-1.0, -0.9), "T2": (0.9, 1.0), "FLAIR": (-1.0, -0.9)}


class Part(Protocol):
    """One part of a lesion: where it is in a slice, and what the tissue becomes there."""

    def alpha(self, slice_: SliceField) -> FloatArray:
        """Changed share of each pixel, 0..1 (N,)."""
        ...

    def target(self, base: FloatArray, inside: BoolArray) -> FloatArray:
        """Intensity of what is wholly changed (N,), from the healthy one; inside: alpha > 0.5."""
        ...

    def scaled(self, factor: float) -> Self:
        """The same part, larger or smaller about its centre."""
        ...


@dataclass(frozen=True, slots=True)
class Component:
    """Blobs of one look: where it is, which tissue it takes, how it changes the intensity."""

    blobs: tuple[Blob, ...]
    strength: float  # signed, relative to the other components
    takes: tuple[float, float, float] = (1.0, 1.0, 0.0)  # share of white, grey, CSF that changes
    edge: float = EDGE_MM  # mm
    homogeneous: float = 0.5  # 0 keeps the tissue's pattern, 1 replaces it by one value
    one_side: bool = False  # the falx stops it at the midline

    def alpha(self, slice_: SliceField) -> FloatArray:
        """Changed share of each pixel, 0..1 (N,)."""
        alpha = np.zeros(len(slice_.points), dtype=np.float32)
        for blob in self.blobs:
            np.maximum(alpha, blob.alpha(slice_.points, min(self.edge, blob.radius)), out=alpha)
        if self.one_side:
            side = np.sign(self.blobs[0].centre[0])
            alpha *= smoothstep(0.5 + side * slice_.points[:, 0] / EDGE_MM)
        share = slice_.tissue[:, :3] @ np.array(self.takes, dtype=np.float32) / 255
        return np.asarray(alpha * np.clip(share, 0, 1), dtype=np.float32)

    def target(self, base: FloatArray, inside: BoolArray) -> FloatArray:
        """The tissue's own pattern, evened out and shifted relative to its mean inside (N,)."""
        level = base[inside].mean()
        pattern = self.homogeneous * level + (1 - self.homogeneous) * base
        return np.asarray(pattern + TYPICAL_CONTRAST * self.strength * level, dtype=np.float32)

    def scaled(self, factor: float) -> Self:
        """All blobs larger or smaller about their centres."""
        return replace(self, blobs=tuple(blob.scaled(factor) for blob in self.blobs))


@dataclass(frozen=True, slots=True)
class Push:
    """Mass effect: tissue displaced radially, most at the core's boundary."""

    centre: FloatArray  # (3,) mm
    radius: float  # mm
    amount: float  # mm

    def source(self, points: FloatArray, depth: FloatArray) -> FloatArray:
        """Where the tissue at points (N, 3) came from; the skull, at depth 0 mm (N,), stays."""
        arm = points - self.centre
        reach = np.maximum(np.sqrt(np.einsum("nk,nk->n", arm, arm)), 1e-3)
        width = 1.2 * self.radius + 5
        fall = np.exp(-((np.maximum(reach - self.radius, 0) / width) ** 2))
        hold = smoothstep(reach / self.radius) * smoothstep(depth / 15)
        move = self.amount * fall * hold
        return np.asarray(points - arm * (move / reach)[:, None], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Model:
    """A lesion in three dimensions, before it meets a slice."""

    kind: str
    contrast: float  # mean change inside the mask relative to the local tissue
    components: tuple[Part, ...] = ()
    push: Push | None = None
    ventricle_growth: float = 0.0  # mm
    pattern: str | None = None  # of an artefact: a key of artefacts.PATTERNS
    pattern_draw: FloatArray = field(default_factory=lambda: np.zeros(3, dtype=np.float32))

    def scaled(self, factor: float) -> "Model":
        """The same lesion, its blobs and mass effect larger or smaller about their centres."""
        if not self.components:
            return self
        parts = tuple(part.scaled(factor) for part in self.components)
        push = self.push and replace(
            self.push, radius=self.push.radius * factor, amount=min(self.push.amount * factor, 7.0)
        )
        return replace(self, components=parts, push=push)


@dataclass(frozen=True, slots=True)
class Draw:
    """What a kind needs to build a lesion: the slice it must cut and the size wanted there."""

    rng: np.random.Generator
    slice_: SliceField
    diameter: float  # mm
    contrast_name: str

    def strength(self, look: Look) -> float:
        """Signed relative strength in this patient's MR contrast."""
        return float(self.rng.uniform(*look[self.contrast_name]))

    def contrast(self, low: float = CONTRAST_RANGE[0], high: float = CONTRAST_RANGE[1]) -> float:
        """Contrast to the surroundings, a little inside the documented range."""
        return float(self.rng.uniform(max(low, 0.17), min(high, 0.48)))

    def place(self, weight: FloatArray) -> FloatArray | None:
        """A pixel of the slice drawn by weight (N,), as an MNI point; None where nothing fits."""
        chance = weight.astype(np.float64)
        if chance.sum() <= 0:
            return None
        pixel = self.rng.choice(len(chance), p=chance / chance.sum())
        chosen = self.slice_.points[pixel]
        off_plane = self.rng.uniform(-0.3, 0.3) * self.diameter / 2
        return np.asarray(chosen + np.array([0, 0, off_plane]), dtype=np.float32)


def tissues_of(slice_: SliceField) -> tuple[FloatArray, FloatArray, FloatArray]:
    white, grey, csf = (slice_.tissue[:, c] / np.float32(255) for c in range(3))
    return white, grey, csf


def in_cerebrum(slice_: SliceField) -> FloatArray:
    """1 in the cerebrum, 0 near the cerebellum and brainstem (N,)."""
    y, z = slice_.points[:, 1], slice_.points[:, 2]
    return np.asarray(
        ~((z < -2) & (y < -12) & (np.abs(slice_.points[:, 0]) < 40)), dtype=np.float32
    )


def tissue_weights(slice_: SliceField, tissue: FloatArray, low: float, high: float) -> FloatArray:
    """Cerebral points with enough of a tissue whose depth in mm lies in low..high (N,)."""
    depth = slice_.shape[:, 4]
    fits = (tissue > 0.7) & (depth >= low) & (depth <= high)
    return np.asarray(fits * in_cerebrum(slice_), dtype=np.float32)


def draw_mass(draw: Draw) -> Model | None:
    """A tumour: core, sometimes an enhancing rim round necrosis, and oedema in white matter."""
    rng, radius = draw.rng, draw.diameter / 2
    white, grey, _ = tissues_of(draw.slice_)
    centre = draw.place(tissue_weights(draw.slice_, white + grey, min(0.5 * radius + 3, 18), 99))
    if centre is None:
        return None
    core = draw_blob(rng, centre, radius * rng.uniform(0.55, 0.9), 0.10)
    oedema = draw_blob(rng, centre, radius, 0.22)
    ring = draw.diameter > 12 and rng.random() < 0.5
    parts = [Component((oedema,), draw.strength(OEDEMA), takes=(1.0, 0.6, 0.0), homogeneous=0.3)]
    if ring:
        inner = draw_blob(rng, centre, core.radius * rng.uniform(0.5, 0.7), 0.12)
        parts.append(Component((core,), draw.strength(ENHANCING), (1, 1, 1), homogeneous=0.8))
        parts.append(Component((inner,), draw.strength(NECROSIS), (1, 1, 1), homogeneous=0.9))
    else:
        parts.append(Component((core,), draw.strength(SOLID), (1, 1, 1), homogeneous=0.7))
    push = Push(centre, core.radius, min(core.radius * rng.uniform(0.25, 0.6), 7.0))
    return Model("mass", draw.contrast(), tuple(parts), push=push)


def draw_white_matter_lesions(draw: Draw) -> Model | None:
    """Several small lesions in white matter, denser round the ventricles."""
    rng, slice_ = draw.rng, draw.slice_
    white, _, _ = tissues_of(slice_)
    to_ventricle = np.maximum(slice_.shape[:, 0], 0)  # mm
    weight = tissue_weights(slice_, white, 7, 99) * (0.15 + smoothstep(1 - to_ventricle / 30))
    blobs = []
    for size in (1.0, *rng.uniform(0.35, 0.9, rng.integers(2, 10))):
        centre = draw.place(weight)
        if centre is None:
            return None
        spread = np.array([0, 0, rng.uniform(-5, 5) * (size < 1)], dtype=np.float32)
        blobs.append(draw_blob(rng, centre + spread, max(size * draw.diameter, 3) / 2, 0.15))
    part = Component(tuple(blobs), draw.strength(OEDEMA), takes=(1.0, 0.6, 0.0))
    return Model("white matter lesion", draw.contrast(), (part,))


def draw_infarct(draw: Draw) -> Model | None:
    """A territory of one lobe: cortex and the white matter below it."""
    _, grey, _ = tissues_of(draw.slice_)
    centre = draw.place(tissue_weights(draw.slice_, grey, 3, max(10.0, 0.35 * draw.diameter)))
    if centre is None:
        return None
    blob = draw_blob(draw.rng, centre, draw.diameter / 2, 0.25, grain=0.6)
    part = Component((blob,), draw.strength(OEDEMA), homogeneous=0.4, one_side=True)
    return Model("infarct", draw.contrast(), (part,))


def draw_oedema(draw: Draw) -> Model | None:
    """Swelling that follows the white matter and spares much of the cortex."""
    white, _, _ = tissues_of(draw.slice_)
    centre = draw.place(tissue_weights(draw.slice_, white, 5, 40))
    if centre is None:
        return None
    blob = draw_blob(draw.rng, centre, draw.diameter / 2, 0.3, grain=0.6)
    part = Component(
        (blob,), draw.strength(OEDEMA), (1.0, 0.6, 0.0), homogeneous=0.2, one_side=True
    )
    return Model("oedema", draw.contrast(), (part,))


def draw_resection(draw: Draw) -> Model | None:
    """A cavity at the brain surface, filled with fluid."""
    white, grey, csf = tissues_of(draw.slice_)
    radius = draw.diameter / 2
    centre = draw.place(
        tissue_weights(draw.slice_, white + grey + csf, 0.3 * radius, 0.6 * radius + 3)
    )
    if centre is None:
        return None
    blob = draw_blob(draw.rng, centre, radius, 0.12)
    part = Component((blob,), draw.strength(FLUID), (1, 1, 1), homogeneous=0.95, one_side=True)
    return Model("resection cavity", draw.contrast(low=0.3), (part,))


def draw_enlarged_ventricles(draw: Draw) -> Model | None:
    """Lateral ventricles wider than any healthy patient's growth would make this patient's own."""
    inside = draw.slice_.shape[:, 0] < 0
    if inside.sum() < 60:
        return None
    return Model("enlarged ventricles", 0.0, ventricle_growth=float(draw.rng.uniform(2.5, 8.0)))


def draw_artefact(draw: Draw) -> Model | None:
    """A region spoilt in acquisition: ghosts of motion, spike stripes or lost signal."""
    rng = draw.rng
    centre = draw.place(np.ones(len(draw.slice_.points), dtype=np.float32))
    if centre is None:
        return None
    blob = draw_blob(rng, centre, draw.diameter / 2, 0.1)
    part = Component((blob,), 1.0, takes=(1, 1, 1), edge=0.3 * draw.diameter)
    name = str(rng.choice(("ghosting", "spike", "dropout")))
    return Model(
        "artefact",
        draw.contrast(high=0.35),
        (part,),
        pattern=name,
        pattern_draw=rng.random(3).astype(np.float32),
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind is built, how often it is drawn and how large it is in its slice (mm)."""

    build: Callable[[Draw], Model | None]
    weight: float
    diameters: tuple[float, float]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "mass": Kind(draw_mass, 0.24, (6.0, 38.0)),
        "white matter lesion": Kind(draw_white_matter_lesions, 0.20, (4.2, 12.0)),
        "infarct": Kind(draw_infarct, 0.16, (4.5, 38.0)),
        "oedema": Kind(draw_oedema, 0.12, (4.5, 38.0)),
        "resection cavity": Kind(draw_resection, 0.10, (6.0, 38.0)),
        "enlarged ventricles": Kind(draw_enlarged_ventricles, 0.10, (4.0, 40.0)),
        "artefact": Kind(draw_artefact, 0.08, (12.0, 38.0)),
    }
)
