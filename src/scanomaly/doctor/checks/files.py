"""Files: readable, finite, of some content; what lies in the folder and belongs to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scanomaly.data.images import MIN_SIDE
from scanomaly.data.listing import MASK_FOLDERS, NOT_YET_READ, Folder, walk
from scanomaly.doctor.findings import Finding, Severity
from scanomaly.doctor.survey import Survey

_SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


def refused_layout(survey: Survey) -> Iterator[Finding]:
    """The reader's own words, where it refused the set."""
    if survey.source.refusal:
        yield Finding(
            "error",
            "layout",
            survey.source.refusal,
            "nothing reads this set until it is mended; splits, labels and masks were not checked.",
        )


def unreadable(survey: Survey) -> Iterator[Finding]:
    """Damaged, truncated and empty files, and pictures too small to be scans."""
    damaged = [facts for facts in survey.facts.values() if facts.error]
    if damaged:
        yield Finding(
            "error",
            "unreadable",
            f"{len(damaged)} files cannot be read; the first: {damaged[0].error}",
            "copy or export them again, or remove them.",
            survey.some(facts.path for facts in damaged),
        )
    tiny = [f for _, f in survey.images() if min(f.height, f.width) < MIN_SIDE]
    if tiny:
        yield Finding(
            "error",
            "unreadable",
            f"{len(tiny)} images are smaller than {MIN_SIDE}x{MIN_SIDE} pixels",
            "remove them, or give the full images.",
            survey.some(facts.path for facts in tiny),
        )


def not_finite(survey: Survey) -> Iterator[Finding]:
    """NaN and infinite pixels."""
    bad = [facts for facts in survey.facts.values() if facts.not_finite]
    if bad:
        worst = max(facts.not_finite for facts in bad)
        yield Finding(
            "error",
            "NaN",
            f"{len(bad)} files hold NaN or infinite pixels, up to {worst:.1%} of them",
            "replace them before export, for example by the value of air.",
            survey.some(facts.path for facts in bad),
        )


def constant(survey: Survey) -> Iterator[Finding]:
    """Images of one value only."""
    flat = [f for _, f in survey.images() if f.is_constant and not f.not_finite]
    if flat:
        yield Finding(
            "warning",
            "constant image",
            f"{len(flat)} images are one value throughout",
            "remove them: their scores mean nothing, and they teach that emptiness is normal.",
            survey.some(facts.path for facts in flat),
        )


def wrong_suffix(survey: Survey) -> Iterator[Finding]:
    """Files whose name says another format than their content."""
    wrong = [
        f
        for f in survey.facts.values()
        if f.kind and _SUFFIXES.get(f.path.suffix.lower(), f.kind) != f.kind
    ]
    if wrong:
        yield Finding(
            "warning",
            "file type",
            f"{len(wrong)} files are named as one format and hold another, such as "
            f"{wrong[0].kind} in {wrong[0].path.suffix}",
            "rename them; JPEG in disguise has lost detail, and in masks it adds grey noise.",
            survey.some(facts.path for facts in wrong),
        )


def left_over(survey: Survey) -> Iterator[Finding]:
    """Files below the folder that no row names: orphaned masks, stray images, scans, emptiness."""
    root = survey.source.root
    if not root.is_dir() or survey.source.refusal:
        return
    folders = list(walk(root))
    stray = [path for f in folders for path in f.images if path not in survey.facts]
    masks = [path for path in stray if _is_mask_name(path, root)]
    others = sorted(set(stray) - set(masks))
    by_hand = "manifest" in survey.manifest.source  # a table names what it wants
    kinds: tuple[tuple[list[Path], Severity, str, str, str], ...] = (
        (
            masks,
            "warning",
            "mask without image",
            "mask files belong to no image",
            "give them the file name of their image, or remove them.",
        ),
        (
            others,
            "note" if by_hand else "warning",
            "unused images",
            "image files in the folder are not read",
            "check that they are meant to be left out.",
        ),
        (
            [p for f in folders for p in f.others if p.suffix.lower() in NOT_YET_READ],
            "warning",
            "unused images",
            "DICOM or volume files are not read",
            "export their slices as 16-bit PNG or TIFF.",
        ),
        (
            _empty(folders),
            "warning",
            "empty folder",
            "folders are empty",
            "check that the archive was unpacked completely, then remove them.",
        ),
    )
    for paths, severity, check, what, remedy in kinds:
        if paths:
            yield Finding(severity, check, f"{len(paths)} {what}", remedy, survey.some(paths))


def _is_mask_name(path: Path, root: Path) -> bool:
    folders = [name.lower() for name in path.relative_to(root).parts[:-1]]
    return any(name in MASK_FOLDERS or name.endswith("_label") for name in folders)


def _empty(folders: list[Folder]) -> list[Path]:
    """Folders without a file, and without a folder that has one."""
    filled = {
        parent for f in folders if f.images or f.others for parent in (f.path, *f.path.parents)
    }
    return [f.path for f in folders if f.path not in filled]
