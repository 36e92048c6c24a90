"""A path to the sets that it holds; what a reader refuses is a finding, not the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scanomaly.data.folder import TABLE_SUFFIXES
from scanomaly.data.listing import list_images
from scanomaly.data.manifest import Manifest, find_sets, read_manifest
from scanomaly.data.mivqa import is_corpus, read_corpus
from scanomaly.data.rows import Row
from scanomaly.errors import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """One set. refusal: why its reader would not read it; the rows are then those of its image
    files, without splits and labels. companions: picture files that are no images of the set,
    such as the anomaly maps of a corpus.
    """

    root: Path
    manifest: Manifest
    refusal: str = ""
    companions: tuple[Path, ...] = ()


def find_sources(data: Path, dataset: str | None = None) -> list[Source]:
    """The sets at `data`: a set of any layout, a folder of sets, a manifest, triples, any folder.

    dataset: as of `read_manifest`. Raises DataError when nothing is there, for a file that is no
    manifest, and for an unknown `dataset`: mistakes of the call, not of the data.
    """
    if not data.exists():
        raise DataError(
            f"{data}: expected a data set, a folder of sets or a manifest, found nothing; "
            "check the path."
        )
    if data.is_file() and data.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{data}: expected a folder or a manifest ({', '.join(TABLE_SUFFIXES)}); "
            "give the folder that holds the images."
        )
    places = find_sets(data, dataset)
    if places == [data]:
        return [_read_named(data, dataset)]
    if places:
        return [_read_set(place) for place in places]
    if dataset is not None:
        raise DataError(f"{data}: expected data set '{dataset}' in it, found no data set at all.")
    if is_corpus(data):
        return [_read(data, lambda: _corpus(data))]
    return [_read_set(data)]


def _read_set(place: Path) -> Source:
    return _read(place, lambda: Source(place, read_manifest(place)))


def _read_named(data: Path, dataset: str | None) -> Source:
    """Raises DataError where only the name is wrong."""
    source = _read(data, lambda: Source(data, read_manifest(data, dataset)))
    if source.refusal and dataset is not None and not _read_set(data).refusal:
        raise DataError(source.refusal)
    return source


def _read(root: Path, read: Callable[[], Source]) -> Source:
    try:
        return read()
    except DataError as error:
        return Source(root, _listed(root), refusal=str(error))


def _listed(root: Path) -> Manifest:
    """Whatever images there are."""
    name = root.resolve().stem if root.is_file() else root.resolve().name
    try:
        rows = list_images([root], name) if root.is_dir() else []
    except DataError:
        rows = []
    return Manifest(tuple(rows), name, "image files alone")


def _corpus(root: Path) -> Source:
    """The images of triples, each once in every split that asks about it."""
    corpus = read_corpus(root)
    rows = {
        (item.image, item.split): Row(
            item.id, item.image, item.split, patient=item.patient, dataset=corpus.name
        )
        for item in corpus.items
    }
    others = dict.fromkeys(
        picture for item in corpus.items for picture in (item.anomaly_map, item.reconstruction)
    )
    manifest = Manifest(
        tuple(sorted(rows.values(), key=lambda row: row.id)), corpus.name, corpus.source
    )
    return Source(root, manifest, companions=tuple(others))
