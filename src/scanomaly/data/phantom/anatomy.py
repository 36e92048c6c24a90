"""MNI152 anatomy: tissue maps, ventricles, lobes.

Points are MNI mm: x to the right, y anterior, z superior. X Y Z grid, N points.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from scanomaly.data.phantom.errors import AnatomyMissingError
from scanomaly.data.phantom.fields import BoolArray, FloatArray, Grid, smoothstep

LOW = np.array([-76, -112, -44], dtype=np.float32)  # mm: first voxel kept
HIGH = np.array([76, 80, 86], dtype=np.float32)  # mm: last voxel kept
T1_WHITE, T1_GREY, T1_CSF = 223.0, 165.5, 66.0  # mean of the template's T1 in pure tissue
TEXTURE_ZERO, TEXTURE_SCALE = (
    128.0,
    58.0,
)  # 58 grey levels = white minus grey matter in the template
SHARPENING = 1.0  # the average of 152 heads is blurred; one unsharp pass brings sulci back
VENTRICLE_REACH = 30.0  # mm over which the tissue round the ventricles gives way

LOBES = ("frontal", "temporal", "parietal", "occipital", "deep", "cerebellum", "brainstem")


@dataclass(frozen=True, slots=True)
class Template:
    """The maps that every simulated head is warped from."""

    tissue: Grid  # 1 mm: white, grey, CSF (0..255) and T1 texture
    shape: Grid  # 2 mm: distance to the ventricles, its gradient (3), depth; mm


def _template_file(name: str) -> Path:
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise AnatomyMissingError(
            "The phantom needs the MNI152 anatomy that comes with nilearn, which is not installed; "
            'run: pip install "scanomaly[demo]"'
        )
    path = (
        Path(spec.origin).parent
        / "datasets"
        / "data"
        / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    )
    if not path.is_file():
        raise AnatomyMissingError(
            f"The phantom expected nilearn's MNI152 map at {path}, and it is not there; "
            'reinstall it with: pip install --force-reinstall "scanomaly[demo]"'
        )
    return path


def _read(name: str) -> FloatArray:
    """One 1 mm map of the template, cropped to LOW..HIGH, 0..255."""
    import nibabel  # comes with nilearn

    image: Any = nibabel.load(_template_file(name))
    start = np.round(LOW - image.affine[:3, 3]).astype(int)
    stop = start + np.round(HIGH - LOW).astype(int) + 1
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return np.asarray(np.asanyarray(image.dataobj)[window], dtype=np.float32)


def _sharpen(fraction: FloatArray) -> FloatArray:
    blurred = ndimage.gaussian_filter(fraction, 1.5)
    return np.asarray(np.clip(fraction + SHARPENING * (fraction - blurred), 0, 1), np.float32)


@cache
def load_template() -> Template:
    """The anatomy, read from nilearn's files once per process (about two seconds)."""
    t1 = _read("t1")
    grey, white = _read("gm") / np.float32(255), _read("wm") / np.float32(255)
    brain, hull = _brain(t1, grey + white)
    csf = np.clip(brain - grey - white, 0, 1).astype(np.float32)
    texture = t1 - (T1_WHITE * white + T1_GREY * grey + T1_CSF * csf)
    stored = np.clip(texture * (grey + white) + TEXTURE_ZERO, 0, 255)
    sharp = np.stack([_sharpen(white), _sharpen(grey), _sharpen(csf)], axis=-1)
    sharp *= (brain / np.maximum(sharp.sum(axis=-1), 1e-3))[..., None]
    channels = np.concatenate([255 * sharp, stored[..., None]], axis=-1)
    tissue = Grid(np.round(channels).astype(np.uint8), LOW, 1.0)
    return Template(tissue, _shape_grid(csf, hull))


def _brain(t1: FloatArray, parenchyma: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Brain mask at 1 mm, 0 or 1, and its hull at 2 mm.

    The template's own mask keeps pools of fluid and sinus outside the cortex that would look like
    lesions; here at most 2 mm of fluid stays outside it, and all that lies deeper.
    """
    solid = parenchyma > 0.25
    hull = ndimage.binary_closing(np.pad(solid[::2, ::2, ::2], 6, mode="edge"), iterations=5)
    hull = hull[6:-6, 6:-6, 6:-6] | solid[::2, ::2, ::2]
    deep = ndimage.distance_transform_edt(hull) > 2
    x, y, z = t1.shape
    deep = deep.repeat(2, 0)[:x].repeat(2, 1)[:, :y].repeat(2, 2)[:, :, :z]
    keep = (ndimage.binary_dilation(solid, iterations=2) | deep) & (t1 > 0)
    return keep.astype(np.float32), hull


def _shape_grid(csf: FloatArray, hull: BoolArray) -> Grid:
    """Signed distance to the ventricles, its unit gradient, depth below the surface: mm.

    csf: (X, Y, Z) at 1 mm; hull: bool at 2 mm. Returns channels (5,) at 2 mm.
    """
    coarse_csf = ndimage.uniform_filter(csf, 2, origin=-1)[::2, ::2, ::2]
    inside = _ventricles(coarse_csf)
    distance = 2 * (
        ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    )
    distance = ndimage.gaussian_filter(distance, 0.8)
    slopes = [ndimage.gaussian_filter1d(distance, 0.9, axis=a, order=1) for a in range(3)]
    gradient = np.stack(slopes, axis=-1) / 2
    gradient /= np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 0.3)
    depth = 2 * ndimage.distance_transform_edt(hull)
    values = np.concatenate([distance[..., None], gradient, depth[..., None]], axis=-1)
    return Grid(values.astype(np.float32), LOW, 2.0)


def _ventricles(csf: FloatArray) -> BoolArray:
    """Lateral and upper third ventricles in a 2 mm CSF map: large connected parts in a box."""
    x, y, z = (2 * np.indices(csf.shape)) + LOW.reshape(3, 1, 1, 1)
    box = (np.abs(x) < 31) & (y > -52) & (y < 38) & (z > 0) & (z < 32)
    cistern = (np.abs(x) < 7) & (y < -30)
    fissure = (np.abs(x) < 3) & (z > 18)
    labels, _ = ndimage.label((csf > 0.4) & box & ~cistern & ~fissure)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes > 60)[labels])


def ventricle_warp(points: FloatArray, growth: float) -> FloatArray:
    """Where the tissue at points (N, 3) comes from when the ventricle wall moved out by growth mm.

    Returns (N, 3).
    """
    shape = load_template().shape.sample(points)  # (N, 5)
    distance, gradient = shape[:, 0], shape[:, 1:4]
    edge = max(growth, 0.0)
    inner = smoothstep((distance + 2) / np.float32(edge + 2))
    outer = np.clip(1 - (distance - edge) / VENTRICLE_REACH, 0, 1) ** 2
    move = growth * inner * np.where(distance > edge, outer, 1)
    return np.asarray(points - move[:, None] * gradient, dtype=np.float32)


def lobe_of(points: FloatArray) -> npt.NDArray[np.int64]:
    """Index into LOBES of each MNI point (N, 3), by planes along the main sulci.

    deep: an ellipsoid round the basal ganglia and thalamus; temporal: below the Sylvian fissure
    (a plane rising backwards); occipital: behind the parieto-occipital sulcus (leaning backwards);
    frontal: in front of the central sulcus (leaning backwards); parietal: the rest.
    """
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    deep = (x / 32) ** 2 + ((y + 6) / 38) ** 2 + ((z - 7) / 19) ** 2 < 1
    rules = (
        ("brainstem", (x < 15) & (y > -45) & (y < -12) & (z < -6)),
        ("cerebellum", (x < 48) & (y <= -42) & (z < -12 - 0.2 * (y + 42)) & (z < -8)),
        ("deep", deep),
        ("occipital", y < -64 - 0.4 * np.maximum(z - 5, 0)),
        ("temporal", (x > 15) & (y < 22) & (z < -3.5 - 0.5 * y)),
        ("frontal", y > -8 - 0.45 * (z - 20)),
    )
    index = [LOBES.index(name) for name, _ in rules]
    return np.asarray(
        np.select([rule for _, rule in rules], index, LOBES.index("parietal")), dtype=np.int64
    )
