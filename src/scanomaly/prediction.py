"""What `scanomaly predict` writes: scores, maps and pictures of files, on their own grid."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanomaly.data.images import read_image
from scanomaly.data.manifest import Manifest, Row, list_images
from scanomaly.errors import DataError
from scanomaly.files import write_bytes, write_text
from scanomaly.inference import Finding, FittedDetector

COLUMNS = ("id", "patient", "label", "score", "p_value", "flagged")
MAPS, OVERLAYS, RECONSTRUCTIONS = "maps", "overlays", "reconstructions"
OPACITY = 0.6


def predict_files(
    fitted: FittedDetector,
    inputs: Sequence[Path],
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Score files and folders into `out`; returns one message for each image that failed.

    Writes predictions.csv and, for each image, `maps/<id>.npy` (float32 H x W),
    `overlays/<id>.png` and, where the method reconstructs, `reconstructions/<id>.png`.
    """
    rows = tuple(row for row in list_images(inputs) if not _own_picture(row.path, out))
    failed: list[str] = []

    def remember(row: Row, error: DataError) -> None:
        failed.append(str(error))

    lines: list[tuple[object, ...]] = []
    for scored in fitted.score_rows(Manifest(rows, "", "files"), on_error=remember):
        finding = fitted.finding(scored)
        _write_pictures(fitted, scored.row, finding, out)
        lines.append(_line(finding))
        if progress:
            progress(len(lines) + len(failed), len(rows))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
    write_text(out / "predictions.csv", text.getvalue())
    return failed


def _own_picture(path: Path, out: Path) -> bool:
    """Whether an earlier prediction drew it, where `out` lies in a folder of inputs."""
    drawn = ((out / name).resolve() for name in (OVERLAYS, RECONSTRUCTIONS))
    return any(path.resolve().is_relative_to(folder) for folder in drawn)


def _line(finding: Finding) -> tuple[object, ...]:
    p_value = "" if finding.p_value is None else f"{finding.p_value:.6g}"
    flagged = "" if finding.flagged is None else int(finding.flagged)
    return (finding.id, "", "", f"{finding.score:.9g}", p_value, flagged)


def _write_pictures(fitted: FittedDetector, row: Row, finding: Finding, out: Path) -> None:
    content = io.BytesIO()
    np.save(content, finding.anomaly_map)
    write_bytes(out / MAPS / f"{finding.id}.npy", content.getvalue())
    pixels = read_image(row.path, fitted.run.data.window)
    overlay = overlaid(pixels, fitted.scaled(finding.anomaly_map))
    write_bytes(out / OVERLAYS / f"{finding.id}.png", _png(overlay))
    if finding.reconstruction is not None:
        picture = _png(finding.reconstruction)
        write_bytes(out / RECONSTRUCTIONS / f"{finding.id}.png", picture)


def overlaid(image: NDArray[np.generic], scaled_map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Image (H, W, 3) under a map (H, W) whose calibrated range is 0..1: uint8 (H, W, 3).

    Transparent where nothing was found, so that healthy images stay themselves.
    """
    base = image.astype(np.float32) * (255 if image.dtype != np.uint8 else 1)
    strength = scaled_map.clip(0, 1)
    levels = (strength * 255).round().astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    weight = OPACITY * strength[..., None]
    return np.asarray((base * (1 - weight) + colours * weight).round(), np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()
