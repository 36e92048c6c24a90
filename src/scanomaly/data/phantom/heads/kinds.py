"""The anomalies of the visual-question set: 8 that have an answer word and 6 that have none.

Source of the names: arXiv 2404.07622. N brain pixels of a slice; lengths in mm.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import cv2
import numpy as np

from scanomaly.data.phantom.artefacts import PATTERNS
from scanomaly.data.phantom.fields import FloatArray
from scanomaly.data.phantom.heads.parts import (
    Filling,
    InVentricles,
    Septum,
    Strands,
    VentricleCaps,
)
from scanomaly.data.phantom.heads.skull import FRONT_Y
from scanomaly.data.phantom.heads.surface import (
    BoneFlap,
    BurrHole,
    FilledSinus,
    SurfaceChange,
    ThickDura,
    cap_above,
)
from scanomaly.data.phantom.lesions import (
    ENHANCING,
    FLUID,
    OEDEMA,
    Component,
    Draw,
    Look,
    Model,
    Push,
    draw_enlarged_ventricles,
    draw_mass,
    in_cerebrum,
    tissue_weights,
    tissues_of,
)
from scanomaly.data.phantom.patient import Patient
from scanomaly.data.phantom.shapes import Blob, draw_blob

BLOOD: Mapping[str, float] = {"T1": 0.80, "T2": 0.30, "FLAIR": 0.90}  # intensity in a ventricle
NODULE_CORE: Look = {"T1": (-1.2, -0.8), "T2": (-1.0, -0.7), "FLAIR": (-0.9, -0.5)}
OLD_BLOOD: Look = {"T1": (0.5, 0.9), "T2": (-1.0, -0.7), "FLAIR": (-0.9, -0.6)}


@dataclass(frozen=True, slots=True)
class Artefact:
    """An artefact over part of the picture, head and background alike."""

    blob: Blob
    pattern: str  # a key of artefacts.PATTERNS
    pattern_draw: FloatArray  # (3,) in 0..1
    contrast: float  # mean change over the mean intensity in the mask


@dataclass(frozen=True, slots=True)
class Anomaly:
    """All that is wrong with one head, in three dimensions."""

    kind: str
    lesion: Model | None = None  # in the brain
    surface: tuple[SurfaceChange, ...] = ()
    artefact: Artefact | None = None

    def scaled(self, factor: float) -> "Anomaly":
        """The same with a larger or smaller lesion; the surface stays."""
        return replace(self, lesion=self.lesion and self.lesion.scaled(factor))


@dataclass(frozen=True, slots=True)
class Request:
    """What a kind is asked for: the slice to cut, the size there, and the head it is in."""

    draw: Draw
    patient: Patient

    @property
    def rng(self) -> np.random.Generator:
        return self.draw.rng

    @property
    def fluid(self) -> float:
        """Intensity of CSF."""
        return self.patient.appearance.tissues.csf

    @property
    def wall(self) -> FloatArray:
        """Distance in mm from this patient's lateral ventricles, negative inside (N,)."""
        return self.draw.slice_.shape[:, 0] - np.float32(max(self.patient.ventricle_growth, 0))

    def near_surface(self, low: float, high: float) -> FloatArray | None:
        """A point of the cerebrum (3,) so many mm below its surface within the slice."""
        slice_ = self.draw.slice_
        brain = slice_.mask(np.ones(len(slice_.pixels), dtype=np.bool_)).astype(np.uint8)
        pixels = cv2.distanceTransform(brain, cv2.DIST_L2, 5).ravel()[slice_.pixels]
        depth = np.asarray(pixels, dtype=np.float32) * np.float32(self.patient.pixel_mm)
        forehead = (slice_.points[:, 1] > FRONT_Y) & (np.abs(slice_.points[:, 0]) < 30)
        fits = (depth >= low) & (depth <= high) & ~(forehead & (slice_.points[:, 2] < 15))
        return self.draw.place(fits * in_cerebrum(slice_))


def _flap(request: Request, point: FloatArray, reach: float, *, fresh: bool) -> BoneFlap:
    """A bone flap over a point; a fresh one is swollen, stands out and has fluid below it."""
    rng = request.rng
    return BoneFlap(
        cap_above(point, reach),
        gap=rng.uniform(2.5, 4.0),
        step=rng.uniform(1.0, 2.5) * rng.choice((-0.6, 1.0)) if fresh else 0.0,
        swelling=rng.uniform(2.5, 5.0) if fresh else 0.0,
        fluid=rng.uniform(1.5, 4.0) if fresh else 0.0,
        marrow=0.15 if fresh else 1.0,
    )


def mass_lesion(request: Request) -> Anomaly | None:
    """One tumour with oedema round it that pushes its surroundings away."""
    model = draw_mass(request.draw)
    return Anomaly("mass lesion", replace(model, kind="mass lesion")) if model else None


def lesions(request: Request) -> Anomaly | None:
    """Several round, well-bounded nodules with another centre, on both sides, as metastases.

    At the border of grey and white matter, apart from each other, away from the ventricles.
    """
    rng, draw, slice_ = request.rng, request.draw, request.draw.slice_
    white, grey, _ = tissues_of(slice_)
    room = tissue_weights(slice_, white + grey, 5, 22) * (request.wall > 12)
    solid: list[Blob] = []
    for size in (1.0, *rng.uniform(0.7, 1.0, rng.integers(2, 6))):
        weight = room * _apart(slice_.points, [blob.centre for blob in solid])
        if len(solid) == 1:
            weight = weight * (slice_.points[:, 0] * solid[0].centre[0] < 0)
        centre = draw.place(weight)
        if centre is None:
            return None
        solid.append(draw_blob(rng, centre, size * draw.diameter / 2, 0.05))
    cores = [blob.scaled(rng.uniform(0.4, 0.55)) for blob in solid if blob.radius > 3]
    rim = Component(tuple(solid), draw.strength(ENHANCING), (1, 1, 1), 1.2, homogeneous=0.9)
    core = Component(tuple(cores), draw.strength(NODULE_CORE), (1, 1, 1), 1.2, homogeneous=0.9)
    parts = (rim, core) if cores else (rim,)
    return Anomaly("lesions", Model("lesions", draw.contrast(low=0.3), parts))


def _apart(points: FloatArray, centres: list[FloatArray]) -> FloatArray:
    """1 where points (N, 3) are more than 22 mm from every centre, else 0 (N,)."""
    apart = np.ones(len(points), dtype=np.float32)
    for centre in centres:
        apart *= np.linalg.norm(points - centre, axis=1) > 22
    return apart


def white_matter_lesion(request: Request) -> Anomaly | None:
    """Ragged caps and bands along the ventricles with small spots in the white matter near them."""
    rng, draw, slice_ = request.rng, request.draw, request.draw.slice_
    if (request.wall < 0).sum() < 60:
        return None
    white, _, _ = tissues_of(slice_)
    strength = draw.strength(OEDEMA)
    look = Component((), strength, homogeneous=0.3)
    caps = VentricleCaps(
        rng.uniform(5.0, 10.0),
        request.patient.ventricle_growth,
        look,
        rng.random(3).astype(np.float32),
    )
    near = np.clip(1 - request.wall / 28, 0, 1).astype(np.float32)
    spots = []
    for _ in range(rng.integers(3, 9)):
        centre = draw.place(tissue_weights(slice_, white, 9, 99) * near)
        if centre is not None:
            spots.append(draw_blob(rng, centre, rng.uniform(1.4, 2.8), 0.2))
    parts = (caps, Component(tuple(spots), strength, (1.0, 0.4, 0.0)))
    kind = "white matter lesion"
    return Anomaly(kind, Model(kind, draw.contrast(low=0.3), parts if spots else parts[:1]))


def enlarged_ventricles(request: Request) -> Anomaly | None:
    """Lateral ventricles clearly wider than this patient's own."""
    model = draw_enlarged_ventricles(request.draw)
    return Anomaly("enlarged ventricles", model) if model else None


def edema(request: Request) -> Anomaly | None:
    """Soft-edged swelling of the white matter that spares the cortex, and no mass in it."""
    rng, draw, radius = request.rng, request.draw, request.draw.diameter / 2
    white, _, _ = tissues_of(draw.slice_)
    centre = draw.place(tissue_weights(draw.slice_, white, 5, 40) * (request.wall > 10))
    if centre is None:
        return None
    blob = draw_blob(rng, centre, radius, 0.35, grain=0.5)
    look = draw.strength(OEDEMA)
    part = Component((blob,), look, (1.0, 0.35, 0.0), 4.0, homogeneous=0.15, one_side=True)
    push = Push(centre, 0.7 * radius, min(0.12 * radius, 2.0))
    return Anomaly("edema", Model("edema", draw.contrast(low=0.25), (part,), push=push))


def artefacts(request: Request) -> Anomaly | None:
    """Ghosts of motion, spike stripes, or signal lost near the surface."""
    rng, draw = request.rng, request.draw
    pattern = str(rng.choice(list(PATTERNS)))
    centre = request.near_surface(0, 10 if pattern == "dropout" else 99)
    if centre is None:
        return None
    found = Artefact(
        draw_blob(rng, centre, draw.diameter / 2, 0.1),
        pattern=pattern,
        pattern_draw=rng.random(3).astype(np.float32),
        contrast=draw.contrast(low=0.2),
    )
    return Anomaly("artefacts", artefact=found)


def craniotomy(request: Request) -> Anomaly | None:
    """A recent bone flap over a healthy brain: cuts, swollen scalp, a little fluid below."""
    point = request.near_surface(0, 5)
    if point is None:
        return None
    return Anomaly(
        "craniotomy", surface=(_flap(request, point, request.draw.diameter, fresh=True),)
    )


def resection(request: Request) -> Anomaly | None:
    """A sharply bounded cavity at the surface, filled with fluid, under an old bone flap."""
    rng, radius = request.rng, request.draw.diameter / 2
    centre = request.near_surface(0.4 * radius, 0.7 * radius + 3)
    if centre is None:
        return None
    blob = draw_blob(rng, centre, radius, 0.08)
    cavity = Component((blob,), 0.0, (1, 1, 1), one_side=True)
    flap = _flap(request, centre, radius + rng.uniform(5, 10), fresh=False)
    return Anomaly("resection", Model("resection", 0.0, (Filling(cavity, request.fluid),)), (flap,))


def posttreatment_change(request: Request) -> Anomaly | None:
    """A patchy scar: gliosis, a slit of fluid, old blood, tissue drawn in; a burr hole above it."""
    rng, draw, radius = request.rng, request.draw, request.draw.diameter / 2
    centre = request.near_surface(0.4 * radius + 2, 0.8 * radius + 5)
    if centre is None:
        return None
    gliosis = draw_blob(rng, centre, radius, 0.25, grain=0.5)
    slit = draw_blob(rng, centre, 0.33 * radius, 0.3)
    specks = tuple(
        draw_blob(rng, centre + (0.42 * radius * move).astype(np.float32), size, 0.2)
        for size, move in zip(
            rng.uniform(0.14, 0.26, 7) * radius,
            rng.normal(0, 1, (7, 3)).clip(-1.4, 1.4),
            strict=True,
        )
    )
    parts = (
        Component((gliosis,), draw.strength(OEDEMA), (1, 0.8, 0), homogeneous=0.3, one_side=True),
        Component(specks, 1.6 * draw.strength(OLD_BLOOD), (1, 1, 1), 1.2, 0.9, one_side=True),
        Component((slit,), 1.8 * draw.strength(FLUID), (1, 1, 1), 1.5, 0.9, one_side=True),
    )
    pull = Push(centre, 0.6 * radius, -min(0.25 * radius, 4.0))
    model = Model("posttreatment change", draw.contrast(low=0.25), parts, push=pull)
    hole = BurrHole(cap_above(centre, rng.uniform(5.0, 8.0)))
    return Anomaly("posttreatment change", model, (hole,))


def dural_thickening(request: Request) -> Anomaly | None:
    """A smooth bright (in T2 dark) band between bone and brain over part of the convexity."""
    rng = request.rng
    point = request.near_surface(0, 5)
    if point is None:
        return None
    dura = ThickDura(cap_above(point, rng.uniform(40, 95)), rng.uniform(3.0, 6.5))
    return Anomaly("dural thickening", surface=(dura,))


def sinus_opacification(request: Request) -> Anomaly | None:
    """Frontal sinuses, one or both, without air."""
    rng = request.rng
    shares = ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0))[int(rng.integers(3))]
    front = request.draw.slice_.points[:, 1] > FRONT_Y
    return Anomaly("sinus opacification", surface=(FilledSinus(shares),)) if front.any() else None


def encephalomalacia(request: Request) -> Anomaly | None:
    """Old loss of cortex and white matter: strands in fluid, a gliotic rim, tissue drawn in."""
    rng, draw, radius = request.rng, request.draw, request.draw.diameter / 2
    centre = request.near_surface(0.3 * radius, 0.5 * radius + 4)
    if centre is None:
        return None
    shape = draw_blob(rng, centre, radius, 0.45, grain=0.45)
    rim = Component((shape.scaled(1.25),), draw.strength(OEDEMA), (1, 0.5, 0), 3.0, one_side=True)
    loss = Component((shape,), 0.0, (1, 1, 1), 3.0, one_side=True)
    strands = Strands(loss, request.fluid, rng.random(3).astype(np.float32))
    pull = Push(centre, 0.8 * radius, -min(0.3 * radius, 5.0))
    model = Model("encephalomalacia", 0.0, (rim, strands), push=pull)
    return Anomaly("encephalomalacia", model)


def intraventricular_substance(request: Request) -> Anomaly | None:
    """Blood in the lateral ventricles: a clot, or sunk to the back with a level."""
    rng, draw, slice_ = request.rng, request.draw, request.draw.slice_
    _, _, csf = tissues_of(slice_)
    inside = ((request.wall < 0) & (csf > 0.6)).astype(np.float32)
    back = inside * (slice_.points[:, 1] < -28)
    centre = draw.place(inside)
    if centre is None or inside.sum() < 40:
        return None
    value = BLOOD[draw.contrast_name] * rng.uniform(0.85, 1.0)
    clot = Component((draw_blob(rng, centre, draw.diameter / 2, 0.15),), 0.0, (1, 1, 1))
    shape = None if back.sum() > 25 and rng.random() < 0.5 else clot
    level = float(rng.uniform(-34, -24))
    part = InVentricles(value, request.patient.ventricle_growth, shape, level)
    return Anomaly("intraventricular substance", Model("intraventricular substance", 0.0, (part,)))


def absent_septum_pellucidum(request: Request) -> Anomaly | None:
    """Frontal horns in one, without the wall between them."""
    part = Septum(request.fluid, request.patient.ventricle_growth)
    return Anomaly("absent septum pellucidum", Model("absent septum pellucidum", 0.0, (part,)))


@dataclass(frozen=True, slots=True)
class HeadKind:
    """How a kind is made, its size in the slice (mm) and the MNI heights where it is looked for."""

    build: Callable[[Request], Anomaly | None]
    diameters: tuple[float, float]
    heights: tuple[float, float] = (-8.0, 52.0)
    sized: bool = True  # scaled until its cut has the diameter drawn


SEEN: Mapping[str, HeadKind] = MappingProxyType(
    {
        "posttreatment change": HeadKind(posttreatment_change, (16.0, 36.0)),
        "mass lesion": HeadKind(mass_lesion, (12.0, 38.0)),
        "lesions": HeadKind(lesions, (8.5, 16.0), (0.0, 48.0)),
        "enlarged ventricles": HeadKind(enlarged_ventricles, (4.0, 40.0), (4.0, 26.0), sized=False),
        "edema": HeadKind(edema, (16.0, 38.0), (0.0, 48.0)),
        "artefacts": HeadKind(artefacts, (28.0, 39.0), sized=False),
        "craniotomy": HeadKind(craniotomy, (17.0, 30.0), sized=False),
        "resection": HeadKind(resection, (14.0, 36.0)),
    }
)
"""Kinds with an answer word."""

UNSEEN: Mapping[str, HeadKind] = MappingProxyType(
    {
        "dural thickening": HeadKind(dural_thickening, (4.0, 40.0), sized=False),
        "white matter lesion": HeadKind(white_matter_lesion, (8.0, 26.0), (8.0, 30.0), sized=False),
        "sinus opacification": HeadKind(
            sinus_opacification, (4.0, 40.0), (-12.0, 3.0), sized=False
        ),
        "encephalomalacia": HeadKind(encephalomalacia, (14.0, 34.0)),
        "intraventricular substance": HeadKind(
            intraventricular_substance, (7.0, 16.0), (4.0, 26.0), sized=False
        ),
        "absent septum pellucidum": HeadKind(
            absent_septum_pellucidum, (4.0, 40.0), (9.0, 20.0), sized=False
        ),
    }
)
"""Kinds without one, for the open set."""

HEAD_KINDS: Mapping[str, HeadKind] = MappingProxyType({**SEEN, **UNSEEN})
