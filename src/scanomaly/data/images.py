"""Image files and arrays to pixels: nothing is clipped, composited or rescaled unasked.

H W pixels, rows first; C channels, red first
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from scanomaly.errors import DataError

logger = logging.getLogger(__name__)

Window = tuple[float, float]
"""Intensities that become 0 and 1."""

MIN_SIDE = 8
"""Pixels; anything smaller is a damaged or mistaken file, not a scan."""
MAX_OUTSIDE = 0.01
"""Share of pixels that a window may cut without a warning."""
WINDOW_PERCENTILES = (0.1, 99.9)
WINDOW_IMAGES = 64
WINDOW_PIXELS = 65_536
"""A window is fitted on this many pixels of each of this many images."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH_AT = 24
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged files, besides UnidentifiedImageError (an OSError)."""


@lru_cache(maxsize=4096)
def _warn_once(message: str) -> None:
    logger.warning(message)


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    if not data:
        raise DataError(f"{path}: expected an image, got an empty file; copy it again.")
    return data


def _unreadable(path: Path, why: object) -> DataError:
    return DataError(
        f"{path}: expected an image, but it is damaged or of an unknown kind ({why}); "
        "copy or export it again, or remove it."
    )


def _open(path: Path, data: bytes) -> Image.Image | None:
    """The image, header read; None for a TIFF that only OpenCV understands."""
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        if path.suffix.lower() in (".tif", ".tiff"):
            return None
        raise _unreadable(path, "no image format recognised") from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether a channel has more than 8 bits; Pillow's mode alone hides 16-bit colour."""
    if data.startswith(_PNG_SIGNATURE):
        return data[_PNG_DEPTH_AT] > 8
    if image.format == "TIFF":
        bits: Any = getattr(image, "tag_v2", {}).get(_TIFF_BITS, (1,))
        return bool(max(bits) > 8)
    return _is_single_deep(image)


def _is_single_deep(image: Image.Image) -> bool:
    """Whether Pillow holds one deep channel: its modes I, I;16, I;16B and F."""
    return bool(image.mode[0] in "IF")


def _refuse_pages(path: Path, image: Image.Image) -> None:
    pages = getattr(image, "n_frames", 1)
    if image.format == "TIFF" and pages > 1:
        raise DataError(
            f"{path}: expected one image, got {pages} pages; write each as a file of its own."
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """An image file as it is.

    pixels: uint8 (H, W, 3) for 8-bit files, else (H, W[, 3]); alpha dropped. kind, mode: file
    format and colour mode in Pillow's words, such as PNG and RGBA; mode "" where Pillow has none.
    """

    pixels: NDArray[Any]
    kind: str
    mode: str


def read_stored(path: Path) -> Stored:
    """Decode one file, once. Raises DataError for a file that is missing, empty or damaged."""
    data = _read_bytes(path)
    with warnings.catch_warnings():
        # Pillow's remarks on damaged EXIF blocks and transparent palettes change no pixel.
        warnings.simplefilter("ignore", UserWarning)
        image = _open(path, data)
        if image is None:
            return Stored(_decode_deep_colour(path, data), "TIFF", "")
        return Stored(_pixels(path, data, image), image.format or "", image.mode)


def _decode(path: Path) -> NDArray[Any]:
    """Pixels as stored: uint8 (H, W, 3) for 8-bit files, else (H, W[, 3]); alpha dropped."""
    return read_stored(path).pixels


def _pixels(path: Path, data: bytes, image: Image.Image) -> NDArray[Any]:
    try:
        _refuse_pages(path, image)
        if not _is_deep(image, data):
            return np.array(image.convert("RGB"))
        # Decoded in full here even where OpenCV does it again: Pillow judges what is damaged.
        image.load()
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if _is_single_deep(image):
        pixels: NDArray[Any] = np.asarray(image)
    else:
        pixels = _decode_deep_colour(path, data)
    return _black_is_zero(path, image, pixels)


def _decode_deep_colour(path: Path, data: bytes) -> NDArray[Any]:
    """Through OpenCV, which keeps the depth of several channels: (H, W) or (H, W, 3)."""
    opencv = cv2.utils.logging
    level = opencv.getLogLevel()
    opencv.setLogLevel(opencv.LOG_LEVEL_SILENT)  # the error below says it in one line
    try:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _unreadable(path, error) from error
    finally:
        opencv.setLogLevel(level)
    if pixels is None:
        raise _unreadable(path, "not 1, 3 or 4 channels in a known image format")
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return pixels.reshape(*pixels.shape[:2], -1)[..., 0]
    return pixels[..., 2::-1]


def _black_is_zero(path: Path, image: Image.Image, pixels: NDArray[Any]) -> NDArray[Any]:
    """X-ray TIFFs may store white as 0; Pillow turns that round for 8 bits only."""
    photometric = getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC)
    if image.format != "TIFF" or photometric != _WHITE_IS_ZERO:
        return pixels
    if pixels.dtype.kind != "u":
        raise DataError(
            f"{path}: expected black to be 0, got a {pixels.dtype} TIFF marked WhiteIsZero; "
            "export it as MinIsBlack."
        )
    inverted: NDArray[Any] = np.iinfo(pixels.dtype).max - pixels
    return inverted


def _require_usable(pixels: NDArray[Any], name: str) -> None:
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise DataError(
            f"{name}: expected at least {MIN_SIDE}x{MIN_SIDE} pixels, got {height}x{width}; "
            "remove it or give the full image."
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).sum())
        raise DataError(
            f"{name}: expected finite values, got {bad} that are NaN or infinite; "
            "replace them first."
        )
    if pixels.min() == pixels.max():
        _warn_once(f"{name}: every pixel is {pixels.flat[0]}; its score means little.")


def _check_window(window: Window) -> None:
    low, high = window
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(
            f"data.window: expected two finite intensities, the lower one first, got {low}, {high}."
        )


def _apply_window(pixels: NDArray[Any], window: Window, name: str) -> NDArray[np.float32]:
    """(H, W[, C]) intensities to float32 0..1; says so when it cuts more than MAX_OUTSIDE."""
    _check_window(window)
    low, high = window
    values = pixels.astype(np.float64)
    outside = float(((values < low) | (values > high)).mean())
    if outside > MAX_OUTSIDE:
        _warn_once(
            f"{name}: {outside:.1%} of its pixels ({values.min():g} to {values.max():g}) lie "
            f"outside the intensity window {low:g} to {high:g} and are cut."
        )
    return ((values - low) / (high - low)).clip(0.0, 1.0).astype(np.float32)


def _three_channels(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W) or (H, W, 1 to 4) to (H, W, 3): grey repeated, alpha dropped."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def read_image(path: Path, window: Window | None = None) -> NDArray[Any]:
    """Read one image: uint8 (H, W, 3) if it is stored with 8 bits, else float32 (H, W, 3) in 0..1.

    Decoding is Pillow's `convert("RGB")` (a colour tint is kept, grey gives three equal channels,
    alpha is dropped, orientation is as stored). window: the intensities that become 0 and 1 in a
    deeper image; it does not touch 8-bit ones. Raises DataError for a file that is missing, empty,
    damaged, smaller than MIN_SIDE or not finite, and for a deep image without a window.
    """
    pixels = _decode(Path(path))
    _require_usable(pixels, str(path))
    return _to_image(pixels, window, str(path))


def _to_image(pixels: NDArray[Any], window: Window | None, name: str) -> NDArray[Any]:
    if pixels.dtype == np.uint8:
        return _three_channels(pixels)
    if window is None:
        raise DataError(
            f"{name}: has {pixels.dtype} intensities from {pixels.min():g} to {pixels.max():g}; "
            "expected 8 bits, or the intensities that stand for black and white: "
            "--set data.window=[LOW,HIGH] on the command line, window=(LOW, HIGH) in Python."
        )
    return _three_channels(_apply_window(pixels, window, name))


def as_image(
    array: NDArray[Any], window: Window | None = None, name: str = "array"
) -> NDArray[Any]:
    """An array as `read_image` would give it: uint8, or float32 in 0..1; (H, W, 3).

    array: (H, W) or (H, W, 1, 3 or 4), channels red first. uint8 and bool are taken as they are;
    floats must lie in 0..1; anything else, and floats when a window is given, goes through the
    window. Raises DataError for another shape or kind, NaN, and values without a window.
    """
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name}: expected a numpy array, got {type(array).__name__}.")
    _require_image_shape(array, name)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "uif":
        raise DataError(f"{name}: expected numbers, got dtype {array.dtype}.")
    array = array[..., :3] if array.ndim == 3 else array
    _require_usable(array, name)
    if window is None and array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        window = (0.0, 1.0)
    return _to_image(array, window, name)


def _require_image_shape(array: NDArray[Any], name: str) -> None:
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        return
    hint = "give one image at a time"
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        hint = "move the channels last with numpy.moveaxis(array, 0, -1)"
    raise DataError(
        f"{name}: expected an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
        f"got {array.shape}; {hint}."
    )


def is_deep(path: Path) -> bool:
    """Whether a file has more than 8 bits a channel, from its header alone."""
    with _guard_open(path) as file:
        data = file.read(_PNG_DEPTH_AT + 1)
    if data.startswith(_PNG_SIGNATURE) and len(data) > _PNG_DEPTH_AT:
        return data[_PNG_DEPTH_AT] > 8
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    data = _read_bytes(path)
    image = _open(path, data)
    return image is None or _is_deep(image, data)


def _guard_open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path.") from error


def _evenly(paths: Sequence[Path], count: int) -> list[Path]:
    if len(paths) <= count:
        return list(paths)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, count).round().astype(int)]


def as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """What `read_image` gives as uint8: values in 0..1 are scaled."""
    return pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)


def fit_window(paths: Sequence[Path]) -> Window | None:
    """The intensity window of deep images, from training images; None when all have 8 bits.

    The 0.1st and 99.9th percentile over a fixed sample of pixels, so a few extreme ones do not
    set it. The same files give the same window. Raises DataError for unreadable or constant images.
    """
    ordered = sorted(Path(path) for path in paths)
    deep = [path for path in ordered if is_deep(path)]
    if not deep:
        return None
    if len(deep) < len(ordered):
        logger.warning(
            "%d of %d images have more than 8 bits: only these go through the intensity window.",
            len(deep),
            len(ordered),
        )
    sample = np.concatenate([_sample_pixels(path) for path in _evenly(deep, WINDOW_IMAGES)])
    low, high = (float(value) for value in np.percentile(sample, WINDOW_PERCENTILES))
    if low >= high:
        raise DataError(
            f"{deep[0]} and {len(deep) - 1} more: nearly all pixels are {low:g}, so no intensity "
            "window can be fitted; give one with --set data.window=[LOW,HIGH]."
        )
    logger.info("intensity window %g to %g, fitted on %d images.", low, high, len(deep))
    return low, high


def _sample_pixels(path: Path) -> NDArray[np.float64]:
    pixels = _decode(path)
    _require_usable(pixels, str(path))
    values = pixels.reshape(-1)
    step = max(1, values.size // WINDOW_PIXELS)
    return values[::step].astype(np.float64)


def read_mask(path: Path, size: tuple[int, int], image: Path | None = None) -> NDArray[np.bool_]:
    """Read a mask: bool (H, W), True where any colour channel is above 0 (alpha is ignored).

    size: (H, W) of the image it belongs to, whose path (`image`) the message names. Published masks
    are not binary: BraTS labels 1, 2 and 4 became greys that depend on the slice (spec section 6).
    Raises DataError for an unreadable file, NaN, or another size.
    """
    pixels = _decode(Path(path))
    if pixels.dtype.kind == "f" and np.isnan(pixels).any():
        raise DataError(f"{path}: expected a mask of finite values, got NaN.")
    if pixels.shape[:2] != tuple(size):
        raise DataError(
            f"{path}: the mask has {pixels.shape[0]}x{pixels.shape[1]} pixels (height x width), "
            f"its image {image or ''} has {size[0]}x{size[1]}; give both the same size."
        )
    channels = pixels.reshape(*size, -1)
    return np.asarray((channels > 0).any(axis=2))
