"""The pictures of a report's panels: small, on the file's own pixels where they fit.

H W pixels of the file, h w pixels of the picture
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from scanomaly.panels import Panel

Pixels = NDArray[np.uint8]


class Size(NamedTuple):
    """How large pictures are. near: pixels that the longer side should come near to.

    largest: a longer side beyond this is shrunk, to `shrunk`.
    """

    near: int
    largest: int
    shrunk: int


FULL = Size(near=200, largest=280, shrunk=240)
SMALL = Size(near=120, largest=140, shrunk=128)
"""Of the many maps of branches and levels."""
TRUTH = "Truth"
CONTOUR = (0, 229, 255)
CONTOUR_WIDTH = 2
OPAQUE_FROM = 0.6
"""Map value from which the overlay is as opaque as it gets."""
OPACITY = 0.85
BUDGET = 1_900_000
"""Bytes of all panel pictures together; base64 adds a third."""
SMALL_BUDGET = 1_500_000
"""The same of all maps of branches and levels."""


def columns_of(panel: Panel) -> dict[str, Pixels | None]:
    """Every column's picture (h, w, 3), or None where there is nothing to show."""
    return {name: draw(panel) for name, draw in COLUMNS.items()}


def part_picture(panel: Panel, name: str) -> Pixels:
    """A map of a branch or level over the image, small."""
    return overlay(picture_of(panel.image, SMALL), plane_of(panel.part_map(name), SMALL))


def encoded(pictures: Sequence[Pixels], budget: int = BUDGET) -> list[str]:
    """Pictures as data URIs: PNG, or all JPEG where that would be more than `budget` bytes."""
    uris: list[str] = []
    for media_type, options in ENCODINGS:
        files = [_file(picture, options) for picture in pictures]
        uris = [data_uri(file, media_type) for file in files]
        if sum(map(len, files)) <= budget:
            break
    return uris


ENCODINGS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("image/png", {"format": "PNG", "optimize": True}),
    ("image/jpeg", {"format": "JPEG", "quality": 92, "subsampling": 0}),
    ("image/jpeg", {"format": "JPEG", "quality": 60}),
)


def data_uri(content: bytes, media_type: str) -> str:
    """A file inside the page."""
    return f"data:{media_type};base64,{b64encode(content).decode('ascii')}"


def colour_bar() -> str:
    """Map values 0 to 1 from left to right as they look over black, mid-grey and white."""
    ground = np.repeat(np.array([0, 128, 255], np.uint8), 8)
    values = np.linspace(0, 1, 256, dtype=np.float32)
    shape = (len(ground), len(values))
    picture = np.broadcast_to(ground[:, None, None], (*shape, 3))
    return encoded([overlay(picture, np.broadcast_to(values, shape))])[0]


def overlay(picture: Pixels, values: NDArray[np.float32]) -> Pixels:
    """Colour laid over a picture (h, w, 3), the more opaque the higher the value (h, w).

    Values are clipped to 0..1; 0 and NaN leave the picture as it is.
    """
    clipped = np.clip(np.nan_to_num(values, nan=0.0), 0, 1)
    opacity = OPACITY * np.clip(clipped / OPAQUE_FROM, 0, 1)[..., None]
    colours = _colours()[np.rint(255 * clipped).astype(int)]
    blended: NDArray[np.float64] = picture * (1 - opacity) + colours * opacity
    return np.rint(blended).astype(np.uint8)


def outlined(picture: Pixels, truth: NDArray[np.bool_]) -> Pixels:
    """A picture (h, w, 3) with a line round, and not over, the true pixels (h, w)."""
    line = ndimage.binary_dilation(truth, iterations=CONTOUR_WIDTH) & ~truth
    return np.where(line[..., None], np.array(CONTOUR, np.uint8), picture)


def picture_of(pixels: Pixels, size: Size = FULL) -> Pixels:
    """(H, W, 3) -> (h, w, 3): whole pixels repeated, or a large image shrunk with antialiasing."""
    shrunk = _shrunk(pixels.shape, size)
    if shrunk is None:
        return _repeated(pixels, size)
    return np.asarray(Image.fromarray(pixels).resize(shrunk, Image.Resampling.LANCZOS))


def plane_of(values: NDArray[np.float32], size: Size = FULL) -> NDArray[np.float32]:
    """(H, W) -> (h, w) as `picture_of`, by averages."""
    shrunk = _shrunk(values.shape, size)
    if shrunk is None:
        return _repeated(values, size)
    plane = Image.fromarray(np.nan_to_num(values, nan=0.0).astype(np.float32))
    return np.asarray(plane.resize(shrunk, Image.Resampling.BOX))


def _image(panel: Panel) -> Pixels:
    return picture_of(panel.image)


def _reconstruction(panel: Panel) -> Pixels | None:
    return None if panel.reconstruction is None else picture_of(panel.reconstruction)


def _map(panel: Panel) -> Pixels:
    return overlay(_image(panel), plane_of(panel.anomaly_map))


def _truth(panel: Panel) -> Pixels | None:
    if panel.truth is None or not panel.truth.any():
        return None
    # any coverage counts: the smallest lesion must survive shrinking
    return outlined(_image(panel), plane_of(panel.truth.astype(np.float32)) > 0)


COLUMNS: Mapping[str, Callable[[Panel], Pixels | None]] = {
    "Image": _image,
    "Reconstruction": _reconstruction,
    "Anomaly map": _map,
    TRUTH: _truth,
}


def _repeated(pixels: NDArray[Any], size: Size) -> NDArray[Any]:
    factor = max(1, round(size.near / max(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _shrunk(shape: tuple[int, ...], size: Size) -> tuple[int, int] | None:
    """(w, h) for a picture that is too large; None for one that is not."""
    height, width = shape[:2]
    scale = size.shrunk / max(height, width)
    if max(height, width) <= size.largest:
        return None
    return max(1, round(width * scale)), max(1, round(height * scale))


def _colours() -> NDArray[np.float64]:
    """(256, 3) in 0..255: inferno, perceptually uniform and readable in grey print."""
    from matplotlib import colormaps

    return cast("NDArray[np.float64]", colormaps["inferno"](np.arange(256))[:, :3] * 255)


def _file(picture: Pixels, options: Mapping[str, Any]) -> bytes:
    grey = bool((picture == picture[..., :1]).all())
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if grey else picture).save(buffer, **options)
    return buffer.getvalue()
