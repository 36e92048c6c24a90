"""A folder of simulated patients in BMAD layout, with a manifest of what is in every image."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scanomaly.data.phantom.errors import PhantomError
from scanomaly.data.phantom.fields import ImageArray
from scanomaly.data.phantom.simulate import (
    ALL_CONTRASTS,
    DATA_SET,
    PhantomSlice,
    Subject,
    healthy_slice,
    make_subject,
    matched_slices,
)
from scanomaly.files import write_bytes

MANIFEST = "phantom.csv"
UNFINISHED = "phantom.unfinished"  # present while a run writes, left by an interrupted one
COLUMNS = (
    *("id", "patient", "path", "label", "mask", "split", "contrast", "height_mm"),
    *("kind", "side", "lobe", "diameter_mm", "lesion_contrast", "severity"),
)
VALID_SHARE, TEST_SHARE = 0.15, 0.25
LEAST_PATIENTS = 6
SLICES = 8  # of each patient

Row = dict[str, str | int | float]
Progress = Callable[[int, int], None]  # (patients done, patients in all)


@dataclass(frozen=True, slots=True)
class Member:
    """One patient's place in the data set."""

    index: int
    split: str
    diseased: bool


def write_phantom(
    out: Path,
    *,
    patients: int,
    seed: int,
    contrasts: Sequence[str] = ALL_CONTRASTS,
    slices: int = SLICES,
    progress: Progress | None = None,
) -> Path:
    """Writes a patient-wise data set and returns the path of its manifest.

    About 60 % of the patients train (healthy, every slice), 15 % are valid and 25 % test. Half of
    the valid and of the test patients are diseased and give the slices that show their lesion; the
    healthy half give those that would show the one drawn for them, so that heights are alike.
    Raises PhantomError (a ValueError) for too few patients or a folder that holds other data.
    """
    members = assign(patients)
    subjects = [make_subject(DATA_SET, seed, m.index, slices, contrasts) for m in members]
    _claim(out)
    rows: list[Row] = []
    for done, (member, subject) in enumerate(zip(members, subjects, strict=True), start=1):
        rows.extend(_write_slice(out, member.split, s) for s in _slices(member, subject))
        if progress:
            progress(done, patients)
    write_bytes(out / MANIFEST, _csv_text(rows).encode())
    (out / UNFINISHED).unlink()
    return out / MANIFEST


def assign(patients: int) -> list[Member]:
    """Split and disease of each patient; patients are alike, so their order serves as the draw."""
    if patients < LEAST_PATIENTS:
        raise PhantomError(
            f"A phantom needs at least {LEAST_PATIENTS} patients to fill train, valid and test "
            f"with healthy and diseased ones; got {patients}; ask for more patients."
        )
    valid = max(2, round(VALID_SHARE * patients))
    test = max(2, round(TEST_SHARE * patients))
    train = patients - valid - test
    diseased = {train + k for k in range(valid // 2)} | {
        train + valid + k for k in range(test // 2)
    }
    splits = ["train"] * train + ["valid"] * valid + ["test"] * test
    return [Member(index, split, index in diseased) for index, split in enumerate(splits)]


def _slices(member: Member, subject: Subject) -> Iterator[PhantomSlice]:
    if member.split == "train":
        return (healthy_slice(subject, k) for k in range(len(subject.patient.heights)))
    return matched_slices(subject, diseased=member.diseased)


def _claim(out: Path) -> None:
    """Makes the folder ours: empty, new, or left unfinished by an earlier run."""
    found = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise PhantomError(f"The phantom needs a folder; {out} is a file; give another name.")
    if found and UNFINISHED not in found:
        raise PhantomError(
            f"The phantom needs a new or empty folder; {out} already holds {', '.join(found[:3])}; "
            "give another folder or remove this one."
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED).touch()
    for split in ("train", "valid", "test"):
        for old in out.glob(f"{split}/*/*/*phantom-*.png*"):
            old.unlink()
    (out / MANIFEST).unlink(missing_ok=True)


def _write_slice(out: Path, split: str, slice_: PhantomSlice) -> Row:
    name = f"{slice_.patient}_{slice_.index:02d}"
    group = "Ungood" if slice_.lesion else "good"
    path = f"{split}/{group}/img/{name}.png"
    mask = f"{split}/{group}/anomaly_mask/{name}.png" if slice_.lesion else ""
    _write_png(out / path, slice_.image)
    if mask:
        _write_png(out / mask, slice_.mask.astype(np.uint8) * np.uint8(255))
    row: Row = {
        "id": name,
        "patient": slice_.patient,
        "path": path,
        "label": int(slice_.lesion is not None),
        "mask": mask,
        "split": split,
        "contrast": slice_.contrast,
        "height_mm": slice_.height_mm,
    }
    return row | _lesion_cells(slice_)


def _lesion_cells(slice_: PhantomSlice) -> Row:
    lesion = slice_.lesion
    if lesion is None:
        return {}
    return {
        "kind": lesion.kind,
        "side": lesion.side,
        "lobe": lesion.lobe,
        "diameter_mm": lesion.diameter_mm,
        "lesion_contrast": lesion.contrast,
        "severity": lesion.severity,
    }


def _csv_text(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_png(path: Path, image: ImageArray) -> None:
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG")
    write_bytes(path, data.getvalue())
