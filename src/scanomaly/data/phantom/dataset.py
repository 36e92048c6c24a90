"""A folder of simulated patients in BMAD layout, with a manifest of what is in every image."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scanomaly.data.phantom.errors import PhantomError
from scanomaly.data.phantom.fields import ImageArray
from scanomaly.data.phantom.simulate import ALL_CONTRASTS
from scanomaly.data.phantom.styles import SLICES, STYLES, Style, StyledSlice, brain_style
from scanomaly.files import write_bytes, write_text

MANIFEST = "phantom.csv"
UNFINISHED = "phantom.unfinished"  # present while a run writes, left by an interrupted one
OPTIONS = "phantom.json"  # of all styles in a folder; finished ones stay when it is written again
COLUMNS = ("id", "patient", "path", "label", "mask", "split")  # before those of the style
ALL_STYLES = "all"
VALID_SHARE, TEST_SHARE = 0.15, 0.25
LEAST_PATIENTS = 6

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
    finer: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Writes a set of brain MRI into `out`; see write_style."""
    numbers = {"patients": patients, "seed": seed, "slices": slices, "finer": finer}
    return write_style(out, brain_style(contrasts), progress=progress, **numbers)


def write_style(
    out: Path,
    style: Style[Any],
    *,
    patients: int,
    seed: int,
    slices: int = SLICES,
    finer: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Writes a patient-wise data set of one style and returns the path of its manifest.

    About 60 % of the patients train (healthy, `slices` each), 15 % are valid and 25 % test. Half of
    the valid and of the test patients are diseased and give the slices that show their lesion; the
    healthy half give those that would show the one drawn for them, so that heights are alike.
    finer: cut patients so many times as finely, and look between the slices for as many as asked
    for where a lesion does not show in all of them.
    Raises PhantomError (a ValueError) for too few patients or a folder that holds other data.
    """
    members = assign(patients)
    subjects = [style.subject(seed, m.index, slices=slices * finer) for m in members]
    claim(out)
    rows: list[Row] = []
    for done, (member, subject) in enumerate(zip(members, subjects, strict=True), start=1):
        shown = _slices(style, member, subject, slices, finer)
        rows.extend(write_slice(out, member.split, s, style.has_masks) for s in shown)
        if progress:
            progress(done, patients)
    write_bytes(out / MANIFEST, csv_text(rows, (*COLUMNS, *style.columns)).encode())
    (out / UNFINISHED).unlink()
    return out / MANIFEST


def write_styles(
    out: Path,
    styles: Sequence[str],
    *,
    patients: int,
    seed: int,
    contrasts: Sequence[str] = ALL_CONTRASTS,
    slices: int = SLICES,
    finer: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes one data set a style into a folder of `out`; returns the paths of their manifests.

    styles: keys of STYLES, or `all`; patients: of each style; contrasts: of the brain; slices and
    finer: see write_style. What an earlier call with the same options finished is kept. Raises
    PhantomError as write_style does, for an unknown style, and when `out` holds something else or
    styles with other options.
    """
    chosen = _choose(styles, contrasts)
    assign(patients)  # refuses too few before anything is written
    numbers = {"seed": seed, "slices": slices, "finer": finer}
    options = {"patients": patients, **numbers, "contrasts": [*contrasts]}
    _claim_for_styles(out, options)
    for number, style in enumerate(chosen):
        before = number * patients

        def report(done: int, total: int, before: int = before) -> None:
            if progress:
                progress(before + done, total * len(chosen))

        place = out / style.name
        if _is_finished(place):
            report(patients, patients)
            continue
        write_style(place, style, patients=patients, progress=report, **numbers)
    return [out / style.name / MANIFEST for style in chosen]


def _choose(names: Sequence[str], contrasts: Sequence[str]) -> list[Style[Any]]:
    """The styles of these names, in the order of STYLES."""
    unknown = [name for name in names if name not in (*STYLES, ALL_STYLES)]
    if unknown or not names:
        raise PhantomError(
            f"styles must be some of {', '.join(STYLES)}, or {ALL_STYLES}; got {list(names)}."
        )
    known = dict(STYLES) | {"brain": brain_style(contrasts)}
    return [style for name, style in known.items() if ALL_STYLES in names or name in names]


def _claim_for_styles(out: Path, options: Mapping[str, Any]) -> None:
    """Makes the folder ours: empty, new, or holding styles of the same options only."""
    if out.exists() and not out.is_dir():
        raise PhantomError(f"The phantom needs a folder; {out} is a file; give another name.")
    found = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    known = [style.name for style in STYLES.values()] if OPTIONS in found else []
    others = [name for name in found if name not in (OPTIONS, *known)]
    if others:
        raise PhantomError(
            f"The phantom writes each style into a folder of its own; {out} already holds "
            f"{', '.join(others[:3])}; give another folder, or remove it."
        )
    if OPTIONS in found:
        _require_same(out / OPTIONS, options)
    write_text(out / OPTIONS, json.dumps(options) + "\n")


def _require_same(file: Path, options: Mapping[str, Any]) -> None:
    """Raises PhantomError where the styles beside `file` were simulated with other options."""
    try:
        before: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise PhantomError(f"{file} is damaged ({error}); give another folder.") from error
    differing = [
        f"{name} {before.get(name)}, not {value}"
        for name, value in options.items()
        if before.get(name) != value
    ]
    if differing:
        raise PhantomError(
            f"{file.parent} holds styles simulated with other options ({'; '.join(differing)}); "
            "repeat those to go on, or give another folder."
        )


def _is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).exists() and not (folder / UNFINISHED).exists()


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


def _slices(
    style: Style[Any], member: Member, subject: Any, slices: int, finer: int
) -> list[StyledSlice]:
    """As many as asked for, if there are; in the order of the patient."""
    places = _outwards(slices, finer)
    found: Iterator[StyledSlice]
    if member.split == "train":
        found = (style.healthy(subject, index) for index in places)
    else:
        found = style.matched(subject, places, diseased=member.diseased)
    return sorted(islice(found, slices), key=attrgetter("index"))


def _outwards(slices: int, finer: int) -> list[int]:
    """All places of a patient cut `finer` times as finely: the middle one of each part first."""
    offsets = sorted(range(finer), key=lambda offset: abs(2 * offset + 1 - finer))
    return [part * finer + offset for offset in offsets for part in range(slices)]


def claim(out: Path) -> None:
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


def write_slice(out: Path, split: str, slice_: StyledSlice, with_mask: bool = True) -> Row:
    """Writes an image and its mask to their places in the layout; returns its line."""
    name = f"{slice_.patient}_{slice_.index:02d}"
    diseased = bool(slice_.finding)
    group = "Ungood" if diseased else "good"
    path = f"{split}/{group}/img/{name}.png"
    mask = f"{split}/{group}/anomaly_mask/{name}.png" if diseased and with_mask else ""
    write_png(out / path, slice_.image)
    if mask:
        write_png(out / mask, slice_.mask.astype(np.uint8) * np.uint8(255))
    row: Row = {
        "id": name,
        "patient": slice_.patient,
        "path": path,
        "label": int(diseased),
        "mask": mask,
        "split": split,
    }
    return row | dict(slice_.cells) | dict(slice_.finding)


def csv_text(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """A table with these columns; missing cells are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_png(path: Path, image: ImageArray) -> None:
    """Writes a grey or colour image, through a temporary name."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG")
    write_bytes(path, data.getvalue())
