"""Triples of pictures with questions and answers: the published layout and ours. Loads no torch.

Published (MI-VQA, arXiv 2404.07622): `annotations/new_{train,valid,test}.json`, lists of
[template, question, answer], and `image/NAME_{orig,anomaly,rec}.png`. Ours: `triples.jsonl`, one
question about one triple on each line, with patients, splits and facts.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanomaly.data.manifest import Manifest, log_overlap
from scanomaly.data.rows import SPLITS, Row, Split
from scanomaly.errors import DataError
from scanomaly.files import write_bytes, write_file, write_text
from scanomaly.questions import classify, question_of

logger = logging.getLogger(__name__)

PICTURES: Mapping[str, str] = {"image": "orig", "anomaly_map": "anomaly", "reconstruction": "rec"}
"""Field of a VqaItem -> how file names end."""
TRIPLES = "triples.jsonl"
IMAGES = "image"
_ANNOTATIONS = "annotations"
_PUBLISHED_ROOTS = (Path(), Path("dataset"), Path("data", "dataset"))
_ENTRY = ("template", "question", "answer")
_REQUIRED = ("id", *PICTURES, "question", "answer", "split")
_TEXT, _NUMBER = ((str,), "a text"), ((int, float), "a number")
_OPTIONAL: Mapping[str, tuple[tuple[type, ...], str]] = {
    **{"patient": _TEXT, "category": _TEXT, "facts": ((dict,), "an object")},
    **{"score": _NUMBER, "p_value": _NUMBER, "flagged": ((bool,), "true or false")},
}
_BETWEEN = " \t\r\n,"


@dataclass(frozen=True, slots=True)
class VqaItem:
    """One question about one triple of picture files, with its answer; both as they were written.

    category: kind of anomaly, where known. facts: what a simulation knows of the case. score,
    p_value, flagged: what the detector says of the image, where known; flagged None too where it
    can flag nothing.
    """

    id: str
    image: Path
    anomaly_map: Path
    reconstruction: Path
    question: str
    answer: str
    patient: str | None = None
    category: str = ""
    split: Split = "train"
    facts: Mapping[str, object] = field(default_factory=dict)
    score: float | None = None
    p_value: float | None = None
    flagged: bool | None = None

    @property
    def pictures(self) -> tuple[Path, Path, Path]:
        return self.image, self.anomaly_map, self.reconstruction

    @property
    def group(self) -> str:
        """What is resampled together: the patient; where unknown the triple."""
        return str(self.image) if self.patient is None else self.patient


@dataclass(frozen=True, slots=True)
class Corpus:
    """The items of each split. source: how they were found, in words."""

    root: Path
    name: str
    source: str
    train: tuple[VqaItem, ...] = ()
    valid: tuple[VqaItem, ...] = ()
    test: tuple[VqaItem, ...] = ()

    @property
    def items(self) -> tuple[VqaItem, ...]:
        return (*self.train, *self.valid, *self.test)

    @property
    def patients_known(self) -> bool:
        """Whether every item names its patient."""
        return bool(self.items) and all(item.patient is not None for item in self.items)

    def patient_overlap(self) -> dict[tuple[Split, Split], set[str]]:
        """Patients that occur in two splits, for each pair of splits that shares any."""
        return self._manifest().patient_overlap()

    def _manifest(self) -> Manifest:
        rows = (Row(item.id, item.image, item.split, patient=item.patient) for item in self.items)
        return Manifest(tuple(rows), self.name, self.source)

    def split(self, name: Split) -> tuple[VqaItem, ...]:
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    def only(self, wanted: Callable[[VqaItem], bool]) -> Corpus:
        """The same corpus with those items alone that are wanted."""
        parts = {name: tuple(filter(wanted, self.split(name))) for name in SPLITS}
        return replace(self, train=parts["train"], valid=parts["valid"], test=parts["test"])


def read_corpus(folder: Path) -> Corpus:
    """Read `triples.jsonl` or the published layout (`annotations/` and `image/`).

    Questions and answers stay as written, blanks included. Counts are logged; closed answers
    outside the vocabulary and patients in several splits as warnings. Raises DataError, with file,
    line or entry, and field, for anything else than that, a missing picture, and an id given twice.
    """
    folder = Path(folder)
    if (folder / TRIPLES).is_file():
        corpus = _read_own(folder)
    else:
        found = _published_root(folder)
        if found is None:
            raise DataError(
                f"{folder}: expected {TRIPLES}, or {_ANNOTATIONS}/new_train.json beside {IMAGES}/; "
                "check the path, or make triples with `scanomaly vqa make-triples`."
            )
        corpus = _read_published(found, folder)
    _log(corpus)
    return corpus


def is_corpus(folder: Path) -> bool:
    """Whether `folder` holds triples in one of the two layouts."""
    return (folder / TRIPLES).is_file() or _published_root(folder) is not None


def _published_root(folder: Path) -> Path | None:
    roots = (folder / below for below in _PUBLISHED_ROOTS)
    return next((root for root in roots if _annotation_files(root)), None)


def _log(corpus: Corpus) -> None:
    counts = ", ".join(f"{name} {len(corpus.split(name))}" for name in SPLITS)
    logger.info("%s (%s, %s): questions: %s.", corpus.name, corpus.root, corpus.source, counts)
    outside: Counter[str] = Counter()
    for item in corpus.items:
        question = question_of(item.question)
        if question.closed and classify(question.name, item.answer) is None:
            outside[f"'{item.answer}' to {question.name}"] += 1
    if outside:
        logger.warning(
            "%s: %d closed answers are outside the vocabulary and count as wrong in every class, "
            "such as %s.",
            corpus.name,
            outside.total(),
            ", ".join(list(outside)[:3]),
        )
    log_overlap(corpus._manifest())


def _corpus(root: Path, name: str, source: str, items: Sequence[VqaItem]) -> Corpus:
    parts = {split: tuple(item for item in items if item.split == split) for split in SPLITS}
    return Corpus(root, name, source, parts["train"], parts["valid"], parts["test"])


def _annotation_files(root: Path) -> dict[Split, Path]:
    files = {split: root / _ANNOTATIONS / f"new_{split}.json" for split in SPLITS}
    return {split: file for split, file in files.items() if file.is_file()}


def _read_published(root: Path, folder: Path) -> Corpus:
    items: list[VqaItem] = []
    for split, file in _annotation_files(root).items():
        for number, (line, entry) in enumerate(_entries(file), start=1):
            where = f"{file}, line {line}, entry {number}"
            items.append(_published_item(root, split, f"{split}-{number:04d}", entry, where))
    if not items:
        raise DataError(f"{root / _ANNOTATIONS}: expected at least one entry, found none.")
    return _corpus(root, folder.resolve().name, "published MI-VQA layout", items)


def _entries(file: Path) -> Iterator[tuple[int, Any]]:
    """The entries of a list in JSON, each with the line where it begins."""
    text = _text_of(file)
    entries = _parse(text, str(file))
    if not isinstance(entries, list):
        raise DataError(f"{file}: expected a list of entries, got {_kind(entries)}.")
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    for entry in entries:
        while text[at] in _BETWEEN:
            at += 1
        yield text.count("\n", 0, at) + 1, entry
        _, at = decoder.raw_decode(text, at)


def _published_item(root: Path, split: Split, name: str, entry: Any, where: str) -> VqaItem:
    if not isinstance(entry, list) or len(entry) != len(_ENTRY):
        length = f" of {len(entry)}" if isinstance(entry, list) else ""
        raise DataError(f"{where}: expected [{', '.join(_ENTRY)}], got {_kind(entry)}{length}.")
    template, question, answer = (
        _typed(value, *_TEXT, f"{where}: {what}") for what, value in zip(_ENTRY, entry, strict=True)
    )
    # the folder in it is that of the machine where the file was made
    parts = template.replace("\\", "/").rpartition("/")[2].split("{}")
    if len(parts) != 2:
        raise DataError(
            f"{where}: template: expected a file name with one {{}} where orig, anomaly or rec "
            f"stands, got '{template}'."
        )
    start, end = parts
    image, anomaly_map, reconstruction = (
        _picture(root / IMAGES / f"{start}{slot}{end}", f"{where}: {what}")
        for what, slot in PICTURES.items()
    )
    return VqaItem(
        id=name,
        image=image,
        anomaly_map=anomaly_map,
        reconstruction=reconstruction,
        question=_question(question, f"{where}: question"),
        answer=answer,
        category=start.rstrip("_").rstrip("0123456789").rstrip("_"),
        split=split,
    )


def _read_own(folder: Path) -> Corpus:
    file = folder / TRIPLES
    items: list[VqaItem] = []
    lines: dict[str, int] = {}
    # not splitlines: an answer may hold one of the rarer line ends, which JSON does not escape
    for number, line in enumerate(_text_of(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        item = _own_item(folder, _parse(line, where), where)
        if item.id in lines:
            raise DataError(
                f"{where}: id: '{item.id}' stands in line {lines[item.id]} too; give each its own."
            )
        lines[item.id] = number
        items.append(item)
    if not items:
        raise DataError(f"{file}: expected at least one line, found none.")
    return _corpus(folder, folder.resolve().name, TRIPLES, items)


def _own_item(folder: Path, record: Any, where: str) -> VqaItem:
    _check_fields(record, where)
    known = {name: value for name, value in record.items() if value is not None}
    for name, value in known.items():
        _typed(value, *_OPTIONAL.get(name, _TEXT), f"{where}: {name}")
    if known["split"] not in SPLITS:
        raise DataError(
            f"{where}: split: expected one of {', '.join(SPLITS)}, got '{known['split']}'."
        )
    _question(known["question"], f"{where}: question")
    pictures = {name: _picture(folder / known[name], f"{where}: {name}") for name in PICTURES}
    return VqaItem(**known | pictures)


def _check_fields(record: Any, where: str) -> None:
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {_kind(record)}.")
    unknown = [name for name in record if name not in (*_REQUIRED, *_OPTIONAL)]
    missing = [name for name in _REQUIRED if record.get(name) is None]
    if unknown:
        raise DataError(
            f"{where}: unknown field '{unknown[0]}'; expected {', '.join(_REQUIRED)} and, where "
            f"known, {', '.join(_OPTIONAL)}."
        )
    if missing:
        raise DataError(f"{where}: field '{missing[0]}' is missing.")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: expected JSON in UTF-8: {error}.") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataError(
            f"{where}: expected JSON of a few levels, got it nested too deep; write it again."
        ) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(
            f"{where}: expected JSON: {error.msg} at {place}column {error.colno}."
        ) from error


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return kinds.get(type(value)) or f"the {type(value).__name__} {value}"


def _typed(value: Any, kinds: tuple[type, ...], words: str, where: str) -> Any:
    if type(value) not in kinds:  # not isinstance: true and false are no numbers
        raise DataError(f"{where}: expected {words}, got {_kind(value)}.")
    return value


def _question(text: str, where: str) -> str:
    try:
        question_of(text)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return text


def _picture(path: Path, where: str) -> Path:
    if not path.is_file():
        raise DataError(
            f"{where}: no file {path}; each triple needs its image, anomaly map and "
            "reconstruction: complete the folder, or remove the entry."
        )
    return path


def write_pictures(
    folder: Path,
    name: str,
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]],
) -> tuple[Path, Path, Path]:
    """Write a triple, uint8 (H, W) or (H, W, 3) each, as `image/NAME_{orig,anomaly,rec}.png`.

    Returns the files' paths. Raises DiskError.
    """
    image, anomaly_map, reconstruction = (
        folder / IMAGES / f"{name}_{ending}.png" for ending in PICTURES.values()
    )
    paths = image, anomaly_map, reconstruction
    for path, pixels in zip(paths, pictures, strict=True):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format="PNG")
        write_bytes(path, content.getvalue())
    return paths


def write_corpus(folder: Path, items: Iterable[VqaItem]) -> Path:
    """Write `triples.jsonl` for `items`; pictures from elsewhere are copied into `image/`.

    Returns the file. Raises DiskError, and DataError for an id given twice.
    """
    copies = _Copies(folder)
    lines: list[str] = []
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"{item.id}: expected each id once, got it twice.")
        seen.add(item.id)
        paths = dict(zip(PICTURES, copies.inside(item), strict=True))
        record = {f.name: getattr(item, f.name) for f in fields(item)} | paths
        kept = {name: value for name, value in record.items() if value not in (None, "", {})}
        kept |= {"answer": item.answer}
        lines.append(json.dumps(kept, ensure_ascii=False))
    file = folder / TRIPLES
    write_text(file, "".join(f"{line}\n" for line in lines))
    return file


class _Copies:
    """Pictures brought into a corpus's folder, each triple once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[Path, ...], tuple[str, ...]] = {}
        self._stems: Counter[str] = Counter()

    def inside(self, item: VqaItem) -> tuple[str, ...]:
        """The item's pictures relative to the folder, copied where they lie elsewhere."""
        if item.pictures not in self._known:
            home = self._folder.resolve()
            paths = [path.resolve() for path in item.pictures]
            if all(path.is_relative_to(home) for path in paths):
                names = tuple(path.relative_to(home).as_posix() for path in paths)
            else:
                names = self._copied(item)
            self._known[item.pictures] = names
        return self._known[item.pictures]

    def _copied(self, item: VqaItem) -> tuple[str, ...]:
        stem = item.image.stem.removesuffix(f"_{PICTURES['image']}")
        self._stems[stem] += 1
        if self._stems[stem] > 1:  # the same name in another folder
            stem = f"{stem}-{self._stems[stem]}"
        names = []
        for source, ending in zip(item.pictures, PICTURES.values(), strict=True):
            name = f"{IMAGES}/{stem}_{ending}{source.suffix}"
            write_file(self._folder / name, partial(shutil.copyfile, source))
            names.append(name)
        return tuple(names)
