"""What a data set holds: its rows, and the ways to divide them. Loads no torch."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from scanomaly.data import bmad, mvtec
from scanomaly.data.folder import TABLE_SUFFIXES, read_plain_folder, read_table
from scanomaly.data.listing import list_images, subfolders
from scanomaly.data.rows import SPLITS, Row, Split
from scanomaly.errors import DataError

__all__ = ["Manifest", "Row", "Split", "list_images", "read_manifest", "read_manifests"]

logger = logging.getLogger(__name__)

_TABLE_NAMES = (*(f"manifest{suffix}" for suffix in TABLE_SUFFIXES), "phantom.csv")
"""A table of this name in a folder describes the folder better than its layout does."""
_SEARCH_DEPTH = 2
"""Folders of sets are searched this deep: archives often unpack into a folder of their own."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The images of one data set, sorted by id. source: how they were found, in words.

    label_only: data sets whose abnormal images have no masks; their normal images, whose masks
    would be empty, then teach no segmentation either.
    """

    rows: tuple[Row, ...]
    dataset: str
    source: str
    label_only: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def has_masks(self) -> bool:
        """Whether any abnormal image has a mask, so that pixel metrics exist."""
        return any(row.label and row.mask is not None for row in self.rows)

    @property
    def patients_known(self) -> bool:
        """Whether every image names its patient."""
        return bool(self.rows) and all(row.patient is not None for row in self.rows)

    def split(self, name: Split) -> Manifest:
        """The rows of one split; empty when there are none."""
        return self._only(lambda row: row.split == name)

    def normals(self) -> Manifest:
        return self._only(lambda row: row.label is False)

    def abnormals(self) -> Manifest:
        return self._only(lambda row: row.label is True)

    def training(self) -> Manifest:
        """The normal images of the train split. Raises DataError when there are none."""
        found = self.split("train").normals()
        if not found.rows:
            raise DataError(
                f"{self.dataset}: expected normal training images, found none among "
                f"{len(self.rows)} images ({self.source}); put them in train/good, or give a CSV "
                "manifest with split 'train' and label 0."
            )
        return found

    def counts(self) -> dict[Split | None, tuple[int, int]]:
        """(normal, abnormal) images of each split that occurs; unlabelled ones are in neither."""
        splits = [name for name in (*SPLITS, None) if any(row.split == name for row in self.rows)]
        return {
            name: (
                sum(row.label is False for row in self.rows if row.split == name),
                sum(row.label is True for row in self.rows if row.split == name),
            )
            for name in splits
        }

    def groups(self) -> list[str]:
        """For each row the unit that is resampled together: the patient, else the image's id."""
        return [row.patient if row.patient is not None else row.id for row in self.rows]

    def patient_overlap(self) -> dict[tuple[Split, Split], set[str]]:
        """Patients that occur in two splits, for each pair of splits that shares any."""
        patients: dict[Split, set[str]] = {
            name: {row.patient for row in self.rows if row.split == name and row.patient}
            for name in SPLITS
        }
        shared = {pair: patients[pair[0]] & patients[pair[1]] for pair in combinations(SPLITS, 2)}
        return {pair: common for pair, common in shared.items() if common}

    def overlap_words(self) -> list[str]:
        """A line for each pair of splits that shares patients."""
        return [
            f"{len(patients)} patients occur in both {first} and {second}: results are too good."
            for (first, second), patients in self.patient_overlap().items()
        ]

    def hold_out(self, share: float, seed: int) -> tuple[Manifest, Manifest]:
        """(kept, held out): `share` of the patients (images where unknown), at least one, is held.

        Depends on the patients and the seed only. share 0 holds out nothing. Raises DataError when
        there are not two patients to divide.
        """
        if not 0 <= share < 1:
            raise ValueError(f"expected a share of at least 0 and below 1, got {share}.")
        groups = self.groups()
        units = sorted(set(groups))
        if share == 0:
            return self, replace(self, rows=())
        if len(units) < 2:
            raise DataError(
                f"{self.dataset}: expected at least two patients to hold some out, got "
                f"{len(units)}; add images or set data.calibration_share=0."
            )
        random.Random(seed).shuffle(units)
        held = set(units[: min(max(1, round(share * len(units))), len(units) - 1)])
        parts: tuple[list[Row], list[Row]] = ([], [])
        for row, group in zip(self.rows, groups, strict=True):
            parts[group in held].append(row)
        return replace(self, rows=tuple(parts[0])), replace(self, rows=tuple(parts[1]))

    def _only(self, wanted: Callable[[Row], bool]) -> Manifest:
        return replace(self, rows=tuple(row for row in self.rows if wanted(row)))


def read_manifest(root: Path, dataset: str | None = None) -> Manifest:
    """Read a BMAD or MVTec set, one of a folder of sets, a plain folder, or a CSV/Parquet manifest.

    dataset: which set of a folder of sets (`Brain` or `Brain_AD`, any case); elsewhere the name of
    the data, which tells how file names give patients. Counts are logged, patients that occur in
    several splits as a warning. Raises DataError with what was found instead.
    """
    root = Path(root)
    manifest = _read_file(root, dataset) if root.is_file() else _read_folder(root, dataset)
    _log_counts(manifest, root)
    log_overlap(manifest)
    _log_lossy_masks(manifest)
    return manifest


def read_manifests(root: Path) -> list[Manifest]:
    """Every set of a folder of sets, sorted by name; a set or a manifest alone is the only one.

    Raises DataError when there is none, and when two folders hold the same set.
    """
    root = Path(root)
    sets = find_sets(root)
    if sets == [root]:
        return [read_manifest(root)]
    if not sets:
        raise DataError(
            f"{root}: expected a folder of data sets (each with train, valid or test, or a "
            "manifest.csv), found none; check the path."
        )
    places: dict[str, Path] = {}
    for path in sets:
        name = _known_name(path.name)
        if name in places:
            raise DataError(
                f"{root}: {places[name]} and {path} both hold data set '{name}', which would count "
                "twice; keep one of them in the folder."
            )
        places[name] = path
    return [read_manifest(places[name]) for name in sorted(places)]


def find_sets(root: Path, dataset: str | None = None) -> list[Path]:
    """`root` itself when it is a set or a file, else the sets of that folder, sorted.

    dataset: the one that is meant. Raises DataError when it is not among them.
    """
    if root.is_file() or (root.is_dir() and _is_set(root)):
        return [root]
    sets = _find_sets(root) if root.is_dir() else []
    return [_pick(root, sets, dataset)] if sets and dataset is not None else sets


def _read_file(path: Path, dataset: str | None) -> Manifest:
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{path}: expected a folder or a manifest ({', '.join(TABLE_SUFFIXES)}); "
            "unpack an archive first."
        )
    name = _known_name(dataset or path.stem)
    kind = path.suffix[1:].upper() if path.suffix.lower() == ".csv" else "Parquet"
    return Manifest(tuple(read_table(path, name)), name, f"{kind} manifest {path.name}")


def _read_folder(root: Path, dataset: str | None) -> Manifest:
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder or a CSV manifest, found nothing; check it.")
    if _is_set(root):
        return _read_one_set(root, dataset)
    sets = _find_sets(root)
    if sets:
        return _read_one_set(_pick(root, sets, dataset), None)
    if bmad.is_split(root):
        raise DataError(
            f"{root}: found good and Ungood folders but no split above them; give the folder that "
            "holds train and test, or move them into one named test."
        )
    if dataset is not None:
        raise DataError(f"{root}: expected data set '{dataset}' in it, found no data set at all.")
    name = root.resolve().name
    return Manifest(tuple(read_plain_folder(root, name)), name, "plain folder")


def _table_in(root: Path) -> Path | None:
    return next((root / name for name in _TABLE_NAMES if (root / name).is_file()), None)


def _is_set(root: Path) -> bool:
    return _table_in(root) is not None or bmad.is_set(root)


def _known_name(name: str) -> str:
    return bmad.canonical_name(name) or name


def is_called(name: str, dataset: str) -> bool:
    """Whether a folder or a file of this name is that data set."""
    return _known_name(name).lower() == _known_name(dataset).lower()


def _read_one_set(root: Path, dataset: str | None) -> Manifest:
    folder = root.resolve().name
    asked, found = dataset and bmad.canonical_name(dataset), bmad.canonical_name(folder)
    if asked and found and asked != found:
        raise DataError(f"{root}: expected data set '{dataset}', got the folder of '{found}'.")
    name = _known_name(dataset or folder)
    table = _table_in(root)
    if table is not None:
        return _read_file(table, name)
    rows, source = (mvtec if mvtec.is_set(root) else bmad).read_set(root, name)
    return Manifest(tuple(rows), name, source)


def _find_sets(root: Path) -> list[Path]:
    """The sets below `root`; a set is not searched for further ones."""
    found: list[Path] = []
    level = [root]
    for _ in range(_SEARCH_DEPTH):
        children = [child for folder in level for child in subfolders(folder)]
        found += [child for child in children if _is_set(child)]
        level = [child for child in children if child not in found]
    return sorted(found)


def _pick(root: Path, sets: list[Path], dataset: str | None) -> Path:
    """The set that `dataset` names; the closest spelling wins."""
    names = ", ".join(path.name for path in sets)
    if dataset is None:
        if len(sets) == 1:
            return sets[0]
        raise DataError(f"{root}: holds several data sets ({names}); name one with --dataset.")
    spellings: tuple[Callable[[str], str | None], ...] = (
        lambda name: name,
        lambda name: name.lower().removesuffix("_ad"),
        bmad.canonical_name,
    )
    for spell in spellings:
        wanted = spell(dataset)
        matches = [path for path in sets if wanted is not None and spell(path.name) == wanted]
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = " and ".join(str(path) for path in matches)
            raise DataError(f"{root}: '{dataset}' could be {listed}; give one of these folders.")
    raise DataError(f"{root}: expected a data set '{dataset}', found {names}.")


def _log_counts(manifest: Manifest, root: Path) -> None:
    parts = []
    for name, (good, abnormal) in manifest.counts().items():
        total = sum(row.split == name for row in manifest.rows)
        unlabelled = total - good - abnormal
        parts.append(f"{name or 'no split'}: {good} good, {abnormal} Ungood")
        if unlabelled:
            parts[-1] += f", {unlabelled} unlabelled"
    patients = len({row.patient for row in manifest.rows if row.patient is not None})
    logger.info(
        "%s (%s, %s): %s; %s; %d masks.",
        manifest.dataset,
        root,
        manifest.source,
        "; ".join(parts),
        f"{patients} patients" if patients else "patients unknown",
        sum(row.mask is not None for row in manifest.rows),
    )


def log_overlap(manifest: Manifest) -> None:
    """Warn of patients that occur in two splits."""
    for (first, second), patients in manifest.patient_overlap().items():
        logger.warning(
            "%s: %d patients occur in both %s and %s (for example %s): results on %s are too good.",
            manifest.dataset,
            len(patients),
            first,
            second,
            ", ".join(sorted(patients)[:3]),
            second,
        )


def _log_lossy_masks(manifest: Manifest) -> None:
    masks = [row.mask for row in manifest.rows if row.mask is not None]
    lossy = sum(mask.suffix.lower() in (".jpg", ".jpeg") for mask in masks)
    if lossy:
        logger.warning(
            "%s: %d masks are JPEG; compression leaves values above 0 around a lesion, which "
            "count as abnormal. Store masks as PNG.",
            manifest.dataset,
            lossy,
        )
