"""A CSV or Parquet manifest of millions of rows, read in passes and never held as a whole."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from scanomaly.data.folder import (
    TABLE_SUFFIXES,
    cell_text,
    delimiter_of,
    known_columns,
    read_label,
)
from scanomaly.data.rows import Row
from scanomaly.errors import DataError

BLOCK_BYTES = 1 << 20
"""Of a CSV file, parsed at a time; pyarrow reads some dozens ahead."""
BLOCK_ROWS = 1 << 16
"""Of a Parquet file, decoded at a time."""
COLUMNS = ("id", "path", "label", "patient")
FIRST_LINE = 2
"""As spreadsheets count: below the header."""
NAMED = 5
"""So many ids given twice are named in an error."""


@dataclass(frozen=True)
class StreamedManifest:
    """Columns `path` and, where known, id, label and patient; others are ignored.

    Paths are relative to the manifest. A row without an id is called by its path, as written.
    Whether a file exists is found out when it is read, not here.
    """

    path: Path

    def digest(self) -> str:
        """Of the file's bytes. Raises DataError."""
        if self.path.suffix.lower() not in TABLE_SUFFIXES or not self.path.is_file():
            raise DataError(
                f"{self.path}: expected a manifest ({' or '.join(TABLE_SUFFIXES)}), found "
                f"{'another kind of file' if self.path.is_file() else 'no such file'}."
            )
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    def check(self) -> int:
        """Read every row once and count them; 8 bytes a row are kept, a hash of the id.

        Raises DataError for no row at all, a row without a path, an unknown label, ids given
        twice, and a file that cannot be read.
        """
        hashes = array("q")
        for texts in self._columns():
            first = len(hashes) + FIRST_LINE
            self._require_paths(texts["path"], first)
            self._require_labels(texts, first)
            found = np.fromiter(map(hash, texts["id"].to_pylist()), np.int64, len(texts["id"]))
            hashes.frombytes(found.tobytes())
        if not hashes:
            raise DataError(f"{self.path}: expected at least one row below the header, found none.")
        ordered = np.frombuffer(hashes, np.int64)
        ordered.sort()
        suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if suspects.size:
            self._refuse_twice(set(suspects[: 1000 * NAMED].tolist()), int(suspects.size))
        return len(ordered)

    def shards(self, size: int) -> Iterator[tuple[int, Any]]:
        """(index, pyarrow table of `size` rows), in order; the last one may be shorter.

        Tables are as read: `rows_of` makes rows of those that are needed. Raises DataError.
        """
        import pyarrow

        index, waiting, count = 0, list[Any](), 0
        for whole in self._batches():
            rest = whole
            while rest.num_rows:
                part = rest.slice(0, size - count)
                rest = rest.slice(part.num_rows)
                waiting.append(part)
                count += part.num_rows
                if count == size:
                    yield index, pyarrow.Table.from_batches(waiting)
                    index, waiting, count = index + 1, [], 0
        if waiting:
            yield index, pyarrow.Table.from_batches(waiting)

    def rows_of(self, table: Any) -> tuple[Row, ...]:
        """The rows of a table of `shards`, with paths that hold in any folder."""
        texts = self._texts(table.combine_chunks())
        values = (texts[name].to_pylist() for name in COLUMNS)
        root = self.path.parent.absolute()
        return tuple(
            Row(id, root / path, label=read_label(label, str(self.path)), patient=patient or None)
            for id, path, label, patient in zip(*values, strict=True)
        )

    def _columns(self) -> Iterator[Mapping[str, Any]]:
        return (self._texts(batch) for batch in self._batches())

    def _texts(self, batch: Any) -> dict[str, Any]:
        """Each of COLUMNS as an array of text, "" where unknown."""
        import pyarrow
        import pyarrow.compute as pc

        blank = pyarrow.array([""] * batch.num_rows, pyarrow.string())
        texts = {
            name: _as_text(batch.column(self._spelling[name])) if name in self._spelling else blank
            for name in COLUMNS
        }
        texts["id"] = pc.if_else(pc.equal(texts["id"], ""), texts["path"], texts["id"])
        return texts

    @cached_property
    def _spelling(self) -> dict[str, str]:
        """Column -> its spelling in the file."""
        import pyarrow.parquet

        with self._explained():
            if self._is_csv:
                with self._open_csv(None) as reader:
                    header = list(reader.schema.names)
            else:
                header = list(pyarrow.parquet.read_schema(self.path).names)
        known = known_columns(self.path, header)
        return {name: known[name] for name in COLUMNS if name in known}

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix.lower() == ".csv"

    def _batches(self) -> Iterator[Any]:
        """Record batches with the known columns, as spelt in the file. Raises DataError."""
        import pyarrow.parquet

        names = list(self._spelling.values())
        with self._explained():
            if self._is_csv:
                with self._open_csv(names) as reader:
                    yield from reader
            else:
                with pyarrow.parquet.ParquetFile(self.path) as file:
                    yield from file.iter_batches(BLOCK_ROWS, columns=names)

    def _open_csv(self, names: list[str] | None) -> Any:
        """A reader of these columns as text; None: of every column."""
        import pyarrow
        from pyarrow import csv

        with self.path.open(encoding="utf-8-sig") as file:
            delimiter = delimiter_of("".join(islice(file, 1)))
        return csv.open_csv(
            self.path,
            csv.ReadOptions(block_size=BLOCK_BYTES),
            csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names or (), pyarrow.string())
            ),
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of reading into a DataError."""
        import pyarrow

        try:
            yield
        except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
            kind = "CSV file in UTF-8" if self._is_csv else "Parquet file"
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{self.path}: expected a {kind}: {reason}") from error

    def _require_paths(self, paths: Any, first: int) -> None:
        import pyarrow.compute as pc

        empty = pc.index(paths, "").as_py()
        if empty >= 0:
            raise DataError(f"{self.path}, row {first + empty}: the path is empty.")

    def _require_labels(self, texts: Mapping[str, Any], first: int) -> None:
        import pyarrow.compute as pc

        for label in pc.unique(texts["label"]):
            place = first + pc.index(texts["label"], label).as_py()
            read_label(label.as_py(), f"{self.path}, row {place}")

    def _refuse_twice(self, suspects: set[int], several: int) -> None:
        """Raise DataError if ids of these hashes are the same, and not only their hashes."""
        places: dict[str, int] = {}
        twice: list[str] = []
        line = FIRST_LINE
        for texts in self._columns():
            for name in texts["id"].to_pylist():
                if hash(name) in suspects:
                    if name in places and len(twice) < NAMED:
                        twice.append(f"'{name}' in rows {places[name]} and {line}")
                    places.setdefault(name, line)
                line += 1
            if len(twice) == NAMED:
                break
        if twice:
            more = f" and {several - NAMED} more" if several > NAMED else ""
            raise DataError(
                f"{self.path}: each id may be listed once, found {', '.join(twice)}{more}."
            )


def _as_text(column: Any) -> Any:
    """A column as trimmed text; a missing value is empty, a whole number has no decimal point."""
    import pyarrow
    import pyarrow.compute as pc

    if pyarrow.types.is_floating(column.type):
        return pyarrow.array(map(cell_text, column.to_pylist()), pyarrow.string())
    plain = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    return pc.utf8_trim_whitespace(pc.fill_null(plain.cast(pyarrow.string()), ""))
