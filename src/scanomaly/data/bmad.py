"""The six BMAD data sets in every published folder layout. Loads no torch.

A layout is a set of folder names in some order, not a fixed tree: each folder between the set and
its images says one thing (split, class, or image/mask), so one grammar reads them all.
Source: BMAD (arXiv 2306.11876), the loaders of QFAE, MVFA and IQE-CLIP, and anomalib.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scanomaly.data.listing import Folder, log_left_out, name_images, no_images, subfolders, walk
from scanomaly.data.mask_files import match_masks, warn_missing
from scanomaly.data.rows import Row, Split
from scanomaly.errors import DataError

logger = logging.getLogger(__name__)

PatientOf = Callable[[str, Split | None], str | None]
"""(file stem, split) -> patient, None where the name does not say."""

KindOf = Callable[[str], str | None]
"""file stem -> kind of anomaly, None where the name does not say."""

_SLICE = re.compile(r"(?P<patient>.+)_\d+")
_OCT = re.compile(r"(?P<kind>NORMAL|CNV|DME|DRUSEN)-(?P<patient>\d+)-\d+", re.IGNORECASE)


def _before_slice(stem: str, split: Split | None) -> str | None:
    match = _SLICE.fullmatch(stem)
    return match["patient"] if match else None


def _liver_volume(stem: str, split: Split | None) -> str | None:
    # Training volumes are BTCV's and the others LiTS': the same number is another patient.
    volume = _before_slice(stem, split)
    source = "btcv" if split == "train" else "lits"
    return None if volume is None else f"{source}-{volume}"


def _oct_patient(stem: str, split: Split | None) -> str | None:
    match = _OCT.fullmatch(stem)
    return match["patient"] if match else None


def _oct_kind(stem: str) -> str | None:
    match = _OCT.fullmatch(stem)
    return match["kind"].upper() if match else None


def _unknown_kind(stem: str) -> str | None:
    return None


def _unknown_patient(stem: str, split: Split | None) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class BmadSet:
    """One data set. code: MVFA's and IQE-CLIP's number, > 0 where masks exist."""

    title: str
    code: int
    aliases: tuple[str, ...]
    patient_of: PatientOf
    kind_of: KindOf = _unknown_kind

    @property
    def has_masks(self) -> bool:
        return self.code > 0


BMAD_SETS: Mapping[str, BmadSet] = {
    "Brain": BmadSet("Brain MRI (BraTS2021)", 3, ("bras2021", "brats2021", "brats"), _before_slice),
    "Liver": BmadSet("Liver CT (BTCV, LiTS)", 2, ("liver_processed", "liverct"), _liver_volume),
    "Retina_RESC": BmadSet("Retinal OCT (RESC)", 1, ("resc", "retina"), _before_slice),
    "Retina_OCT2017": BmadSet("Retinal OCT (OCT2017)", -1, ("oct2017",), _oct_patient, _oct_kind),
    "Chest": BmadSet("Chest X-ray (RSNA)", -2, ("rsna", "chest_xray"), _unknown_patient),
    "Histopathology": BmadSet(
        "Digital histopathology (Camelyon16)", -3, ("camelyon", "camelyon16"), _unknown_patient
    ),
}
"""Class name of MVFA and IQE-CLIP (folder `<name>_AD`) -> what is known of it (spec section 1)."""

_SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "test": "test",
}
_CLASS_NAMES: Mapping[str, bool] = {"good": False, "ungood": True}
_EXACT_CLASS_NAMES = ("good", "Ungood")
_IMAGE_NAMES = ("img",)
_MASK_NAMES = ("label", "anomaly_mask")
_WRAPPER_NAMES = ("hist_diy",)
"""Folders of BMAD's own code that say nothing: histogram-equalised liver."""
_SPLIT_MASKS = re.compile(r"(train|valid|val|test)_label")

_EXPECTED = (
    "train, valid or val, test; in them good and Ungood; in those img, and label or anomaly_mask"
)


def canonical_name(name: str) -> str | None:
    """The BMAD name behind `name` (any case, with or without `_AD`, or an alias), else None."""
    wanted = name.lower().removesuffix("_ad")
    for canonical, known in BMAD_SETS.items():
        if wanted == canonical.lower() or wanted in known.aliases:
            return canonical
    return None


def is_set(root: Path) -> bool:
    """Whether `root` holds a split folder, as every BMAD layout does."""
    names = {path.name.lower() for path in subfolders(root)}
    return not names.isdisjoint([*_SPLIT_NAMES, *_WRAPPER_NAMES])


def is_split(root: Path) -> bool:
    """Whether `root` looks like one split of a set: class folders and no split above them."""
    return any(path.name.lower() in _CLASS_NAMES for path in subfolders(root))


@dataclass(frozen=True, slots=True)
class _Place:
    """What the folder names above a file say."""

    split: Split
    abnormal: bool
    is_mask: bool


def _is_known(name: str) -> bool:
    lower = name.lower()
    known = [*_SPLIT_NAMES, *_CLASS_NAMES, *_IMAGE_NAMES, *_MASK_NAMES, *_WRAPPER_NAMES]
    return lower in known or _SPLIT_MASKS.fullmatch(lower) is not None


def _place(names: Sequence[str]) -> _Place | None:
    """What `names` say; None unless it is one split, one class and at most one kind."""
    lower = [name.lower() for name in names]
    compound = [match[1] for name in lower if (match := _SPLIT_MASKS.fullmatch(name))]
    splits = {_SPLIT_NAMES[name] for name in [*lower, *compound] if name in _SPLIT_NAMES}
    classes = [_CLASS_NAMES[name] for name in lower if name in _CLASS_NAMES]
    masks = [name for name in lower if name in _MASK_NAMES] + compound
    kinds = len(masks) + sum(name in _IMAGE_NAMES for name in lower)
    if len(splits) != 1 or len(classes) != 1 or kinds > 1:
        return None
    return _Place(splits.pop(), classes[0], bool(masks))


def _refuse_unknown(root: Path, folders: Iterable[Folder]) -> None:
    unknown = [
        folder.path.relative_to(root).as_posix()
        for folder in folders
        if folder.names
        and not _is_known(folder.names[-1])
        and all(_is_known(name) for name in folder.names[:-1])
    ]
    if unknown:
        listed = ", ".join(unknown[:8]) + (f" and {len(unknown) - 8} more" if unknown[8:] else "")
        raise DataError(
            f"{root}: expected only folders named {_EXPECTED}; found {listed}. Move them out of "
            "the data set, or describe the images in a CSV manifest (id, patient, path, label, "
            "mask, split)."
        )


def _choose(root: Path, candidates: Sequence[Folder]) -> Folder:
    """The one folder that is meant, when several say the same: the exactly spelled class wins."""
    if len(candidates) == 1:
        return candidates[0]
    paths = [folder.path.relative_to(root).as_posix() or "." for folder in candidates]
    exact = [f for f in candidates if any(name in _EXACT_CLASS_NAMES for name in f.names)]
    if len(exact) != 1:
        raise DataError(
            f"{root}: {' and '.join(paths)} both hold files of the same split, class and kind; "
            "keep one of them."
        )
    chosen = exact[0].path.relative_to(root).as_posix()
    logger.warning("%s: of %s only %s is read.", root, ", ".join(paths), chosen)
    return exact[0]


def _sort_out(root: Path) -> dict[_Place, Folder]:
    """The folder of each (split, class, image or mask)."""
    folders = list(walk(root))
    _refuse_unknown(root, folders)
    found: dict[_Place, list[Folder]] = defaultdict(list)
    for folder in folders:
        if not folder.images:
            continue
        place = _place(folder.names)
        if place is None:
            raise DataError(
                f"{folder.path}: {len(folder.images)} images lie where one split and one class "
                f"cannot be told from the folder names; expected {_EXPECTED}, for example "
                "train/good/img or train/good."
            )
        found[place].append(folder)
    others = [file for folder in folders for file in folder.others]
    if all(place.is_mask for place in found):
        raise no_images(root, others)
    log_left_out(root, others)
    return {place: _choose(root, candidates) for place, candidates in found.items()}


def _layout(places: Mapping[_Place, Folder]) -> str:
    """The recognised layout in words, such as `BMAD layout: split/class/img, split/class/label`."""
    patterns: set[str] = set()
    for folder in places.values():
        names = []
        for name in folder.names:
            lower = name.lower()
            kind = "split" if lower in _SPLIT_NAMES else name
            names.append("class" if lower in _CLASS_NAMES else kind)
        patterns.add("/".join(names))
    return f"BMAD layout: {', '.join(sorted(patterns))}"


def read_set(root: Path, dataset: str) -> tuple[list[Row], str]:
    """Rows of one BMAD-style set, sorted by id, and its layout in words.

    Raises DataError for folders that mean nothing here, images outside a split and class, folders
    that say the same, and a set without images.
    """
    places = _sort_out(root)
    rows: list[Row] = []
    for place, folder in places.items():
        if not place.is_mask:
            masks = places.get(replace(place, is_mask=True))
            rows.extend(_rows(root, dataset, place, folder.images, masks.images if masks else ()))
    rows.sort(key=lambda row: row.id)
    warn_missing(rows)
    return rows, _layout(places)


def _rows(
    root: Path, dataset: str, place: _Place, images: Sequence[Path], masks: Sequence[Path]
) -> Iterator[Row]:
    """The rows of one split and class."""
    known = BMAD_SETS.get(dataset)
    patient_of, kind_of = (
        (known.patient_of, known.kind_of) if known else (_unknown_patient, _unknown_kind)
    )
    matched = match_masks(images, masks)
    names = name_images([(root, image) for image in images])
    for name, image in zip(names, images, strict=True):
        yield Row(
            id=name,
            path=image,
            split=place.split,
            label=place.abnormal,
            mask=matched.get(image),
            patient=patient_of(image.stem, place.split),
            dataset=dataset,
            kind=kind_of(image.stem) if place.abnormal else None,
        )
