"""Plain folders and CSV/Parquet manifests. Loads no torch."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from scanomaly.data.listing import list_images, name_images, require_image
from scanomaly.data.rows import Row, Split
from scanomaly.errors import DataError

Value = TypeVar("Value")

TABLE_SUFFIXES = (".csv", ".parquet")
COLUMNS = ("id", "patient", "path", "label", "mask", "split", "kind")

_LABELS: Mapping[str, bool | None] = {
    "": None,
    **dict.fromkeys(["0", "false", "good", "normal"], False),
    **dict.fromkeys(["1", "true", "ungood", "abnormal"], True),
}
_SPLITS: Mapping[str, Split | None] = {
    "": None,
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "test": "test",
}


def read_plain_folder(root: Path, dataset: str) -> list[Row]:
    """Every image below `root`, of unknown class and split."""
    return list_images([root], dataset)


def read_table(path: Path, dataset: str) -> list[Row]:
    """Rows of a manifest with the columns `path` and, where known, the other ones of COLUMNS.

    Paths are relative to the manifest. label: 0/1, true/false, good/Ungood or normal/abnormal;
    kind: of the anomaly; an empty cell is unknown. Other columns are ignored. Raises DataError for
    a missing column or file, an unknown label or split, and an id or path given twice.
    """
    records = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    if not records:
        raise DataError(f"{path}: expected at least one row below the header, found none.")
    images = [
        require_image(_file(path, record["path"], line))
        for line, record in enumerate(records, start=2)
    ]
    names = _ids(path, records, images)
    rows = [
        _row(path, line, record, image, name, dataset)
        for line, (record, image, name) in enumerate(
            zip(records, images, names, strict=True), start=2
        )
    ]
    for what, values in (("id", names), ("path", [str(image.resolve()) for image in images])):
        _refuse_twice(path, what, values)
    return sorted(rows, key=lambda row: row.id)


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        # utf-8-sig: spreadsheets write a byte-order mark, and semicolons in many countries.
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = delimiter_of(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter, restval="")
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8: {error}.") from error
    columns = known_columns(path, reader.fieldnames or ())
    return [{key: cell_text(line[name]) for key, name in columns.items()} for line in lines]


def delimiter_of(header: str) -> str:
    """Comma, semicolon or tab: what separates the columns of a CSV file."""
    return max(",;\t", key=header.count)


def _read_parquet(path: Path) -> list[dict[str, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: expected a Parquet file: {error}.") from error
    columns = known_columns(path, table.column_names)
    lines = table.select(list(columns.values())).to_pylist()
    return [{key: cell_text(line[name]) for key, name in columns.items()} for line in lines]


def known_columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Known column -> its spelling in the header. Raises DataError without a path."""
    columns = {name.strip().lower(): name for name in header}
    if "path" not in columns:
        raise DataError(
            f"{path}: expected a column 'path' (of {', '.join(COLUMNS)}), "
            f"got {', '.join(header) or 'an empty file'}."
        )
    return {key: columns[key] for key in COLUMNS if key in columns}


def cell_text(value: Any) -> str:
    """A cell as text; a missing number is empty and a whole one has no decimal point."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _file(table: Path, cell: str, line: int) -> Path:
    if not cell:
        raise DataError(f"{table}, row {line}: the path is empty.")
    path = table.parent / cell
    if not path.is_file():
        raise DataError(
            f"{table}, row {line}: no file {path}; paths are relative to the manifest's folder."
        )
    return path


def _ids(table: Path, records: Sequence[Mapping[str, str]], images: Sequence[Path]) -> list[str]:
    made = name_images([(table.parent, table.parent / record["path"]) for record in records])
    return [record.get("id") or name for record, name in zip(records, made, strict=True)]


def _row(
    table: Path, line: int, record: Mapping[str, str], image: Path, name: str, dataset: str
) -> Row:
    mask = record.get("mask", "")
    return Row(
        id=name,
        path=image,
        split=_look_up(_SPLITS, record.get("split", ""), f"{table}, row {line}: split"),
        label=read_label(record.get("label", ""), f"{table}, row {line}"),
        mask=_file(table, mask, line) if mask else None,
        patient=record.get("patient") or None,
        dataset=dataset,
        kind=record.get("kind") or None,
    )


def read_label(cell: str, where: str) -> bool | None:
    """True = abnormal, None = unknown. Raises DataError naming `where`."""
    return _look_up(_LABELS, cell, f"{where}: label")


def _look_up(options: Mapping[str, Value], cell: str, where: str) -> Value:
    try:
        return options[cell.lower()]
    except KeyError:
        known = ", ".join(name for name in options if name)
        raise DataError(f"{where}: expected one of {known} or nothing, got '{cell}'.") from None


def _refuse_twice(table: Path, what: str, values: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for line, value in enumerate(values, start=2):
        if value in seen:
            raise DataError(
                f"{table}: {what} '{value}' stands in rows {seen[value]} and {line}; "
                f"each {what} may be listed once."
            )
        seen[value] = line
