"""Fingerprints of data and weights: what is in the files, wherever they lie. Loads no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scanomaly.data.manifest import Manifest
from scanomaly.data.mivqa import Corpus
from scanomaly.errors import DataError
from scanomaly.files import write_text

DIGEST_BYTES = 12
THREADS = 4
"""That read and hash at once."""
FINGERPRINTS_FILE = "fingerprints.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a data set: what is said of its files, and the files."""

    facts: str
    files: tuple[Path, ...]


class Fingerprints:
    """Kept in a file under the paths, sizes and times of change of what was read.

    The same content elsewhere has the same fingerprint; a file that was touched is read again.
    """

    def __init__(self, out: Path) -> None:
        self._file = out / FINGERPRINTS_FILE
        self._known = _read(self._file)

    def of_manifests(self, manifests: Iterable[Manifest]) -> str:
        """Of all images and masks of some data sets, with everything that is known of them."""
        return self._of([entry for manifest in manifests for entry in _images(manifest)])

    def of_corpus(self, corpus: Corpus) -> str:
        """Of all questions, answers and pictures."""
        return self._of(list(_questions(corpus)))

    def of_weights(self, files: Iterable[Path]) -> str:
        """Of some weight files in this order; empty for none."""
        entries = [Entry("weights", (file,)) for file in files]
        return self._of(entries) if entries else ""

    def _of(self, entries: Sequence[Entry]) -> str:
        """Raises DataError for a file that cannot be read."""
        files = list(dict.fromkeys(file for entry in entries for file in entry.files))
        try:
            key = _state(entries, files)
            if key not in self._known:
                self._known[key] = _content(entries, files)
                write_text(self._file, json.dumps(self._known, indent=1) + "\n")
        except OSError as error:
            raise DataError(
                f"{error.filename}: {error.strerror}; every file must be readable to begin."
            ) from error
        return self._known[key]


def _images(manifest: Manifest) -> Iterator[Entry]:
    for row in manifest:
        files = (row.path,) if row.mask is None else (row.path, row.mask)
        facts = (row.dataset, row.id, row.split, row.label, row.patient, len(files), row.kind)
        yield Entry(json.dumps(facts), files)


def _questions(corpus: Corpus) -> Iterator[Entry]:
    for item in corpus.items:
        facts = (item.id, item.question, item.answer, item.patient, item.category, item.split)
        yield Entry(json.dumps(facts), item.pictures)


def _state(entries: Iterable[Entry], files: Iterable[Path]) -> str:
    """What a look at the folders tells: it changes whenever the content may have."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for entry in entries:
        state.update(f"{entry.facts}\n".encode())
    for file in files:
        known = file.stat()
        state.update(f"{file.resolve()} {known.st_size} {known.st_mtime_ns}\n".encode())
    return state.hexdigest()


def _content(entries: Iterable[Entry], files: Sequence[Path]) -> str:
    with ThreadPoolExecutor(THREADS) as pool:
        digests = dict(zip(files, pool.map(_hash, files), strict=True))
    content = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for entry in entries:
        words = " ".join(digests[file] for file in entry.files)
        content.update(f"{entry.facts} {words}\n".encode())
    return content.hexdigest()


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def _read(file: Path) -> dict[str, str]:
    """What was kept; nothing where it cannot be read, since all of it can be found again."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in values.items()} if type(values) is dict else {}
