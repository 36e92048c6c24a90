"""Finding image files in folders, and naming them. Loads no torch."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scanomaly.data.rows import Row
from scanomaly.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASK_FOLDERS = ("label", "labels", "anomaly_mask", "mask", "masks", "ground_truth")
NOT_YET_READ = (".dcm", ".nii", ".gz", ".mha", ".nrrd")


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder below a root, with the files that lie directly in it.

    names: folder names from the root down, () for the root itself. images, others: sorted.
    """

    path: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]
    others: tuple[Path, ...]


def is_image(path: Path) -> bool:
    """Whether the name ends like an image this package reads, in any case."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Dot files and the resource forks that macOS leaves in archives."""
    return name.startswith(".") or name == "__MACOSX"


def subfolders(root: Path) -> list[Path]:
    """Visible folders directly below `root`, sorted."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))


def walk(root: Path) -> Iterator[Folder]:
    """Every visible folder from `root` down, sorted; links are followed, each folder once."""
    seen: set[str] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        path = Path(place)
        visible = [path / name for name in sorted(files) if not is_hidden(name)]
        yield Folder(
            path=path,
            names=path.relative_to(root).parts,
            images=tuple(file for file in visible if is_image(file)),
            others=tuple(file for file in visible if not is_image(file)),
        )


def no_images(root: Path, others: Sequence[Path] = ()) -> DataError:
    """The error for a folder without a single image, with a hint at what lies there instead."""
    formats = ", ".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
    found = Counter("".join(path.suffixes).lower() or "no suffix" for path in others)
    what = ", ".join(f"{count} x {kind}" for kind, count in found.most_common(3)) or "no files"
    hint = "check the path, or that the archive was unpacked"
    if any(path.suffix.lower() in NOT_YET_READ for path in others):
        hint = "DICOM and volumes are not read yet: export slices as 16-bit PNG or TIFF"
    return DataError(f"{root}: expected images ({formats}), found {what}; {hint}.")


def name_images(files: Sequence[tuple[Path, Path]]) -> list[str]:
    """An id for each (root, path): the relative path without suffix, longer only in a clash."""
    relative = [_relative(path, root) for root, path in files]
    levels = [
        [path.with_suffix("").as_posix() for path in relative],
        [path.as_posix() for path in relative],
        [
            (Path(root.name) / path).as_posix()
            for (root, _), path in zip(files, relative, strict=True)
        ],
        [path.absolute().relative_to(path.absolute().anchor).as_posix() for _, path in files],
    ]
    names = levels[0]
    for longer in levels[1:]:
        count = Counter(names)
        names = [
            name if count[name] == 1 else other for name, other in zip(names, longer, strict=True)
        ]
    return names


def _relative(path: Path, root: Path) -> Path:
    """`path` from `root` on; as it is where it lies elsewhere."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def require_image(path: Path) -> Path:
    """`path`, or DataError when its name is not that of an image."""
    if not is_image(path):
        raise DataError(
            f"{path}: expected a file ending in {', '.join(IMAGE_SUFFIXES)}; "
            "convert it (16-bit PNG or TIFF keeps the full depth)."
        )
    return path


def log_left_out(root: Path, others: Sequence[Path]) -> None:
    """Say how many files beside the images are not read, louder where they are scans."""
    scans = sum(path.suffix.lower() in NOT_YET_READ for path in others)
    if scans:
        logger.warning("%s: %d DICOM or volume files are left out, not read yet.", root, scans)
    elif others:
        logger.info("%s: %d files that are no images are left out.", root, len(others))


def _images_below(root: Path) -> list[Path]:
    """Every image from `root` down; folders named as mask folders are left out, loudly."""
    found: list[Path] = []
    others: list[Path] = []
    for folder in walk(root):
        masks = [name for name in folder.names if _names_masks(name)]
        if masks:
            if folder.images:
                logger.warning(
                    "%s: %d files left out, '%s' is taken for a folder of masks.",
                    folder.path,
                    len(folder.images),
                    masks[0],
                )
            continue
        found.extend(folder.images)
        others.extend(folder.others)
    if not found:
        raise no_images(root, others)
    log_left_out(root, others)
    return found


def _names_masks(name: str) -> bool:
    return name.lower() in MASK_FOLDERS or name.lower().endswith("_label")


def _expand(path: Path) -> list[tuple[Path, Path]]:
    """(root, image) for one file or folder."""
    if path.is_dir():
        return [(path, image) for image in _images_below(path)]
    if not path.exists():
        raise DataError(f"{path}: expected an image or a folder, found nothing; check the path.")
    return [(path.parent, require_image(path))]


def list_images(paths: Sequence[Path], dataset: str = "") -> list[Row]:
    """Rows for files and folders (searched recursively), without classes or splits.

    A file met twice counts once. Raises DataError when a path is missing, is no image, or when a
    folder holds none.
    """
    if not paths:
        raise DataError("expected at least one image or folder, got none.")
    files: dict[Path, tuple[Path, Path]] = {}
    for path in paths:
        for root, image in _expand(Path(path)):
            files.setdefault(image.resolve(), (root, image))
    found = list(files.values())
    rows = [
        Row(id=name, path=image, dataset=dataset)
        for name, (_, image) in zip(name_images(found), found, strict=True)
    ]
    return sorted(rows, key=lambda row: row.id)
