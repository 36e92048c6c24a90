"""One shard of a manifest to one Parquet file, which by being there says that it is finished.

n rows of a shard, S method's side
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scanomaly.config.fit import Precision
from scanomaly.data.manifest import Manifest, Row
from scanomaly.errors import DataError
from scanomaly.files import write_file
from scanomaly.inference import DECODERS, FittedDetector, load
from scanomaly.scoring.job import ScoringError, detector_digest

SHARDS, MAPS = "shards", "maps"
COLUMNS = ("id", "patient", "label", "score", "p_value", "flagged", "error")

Tick = Callable[[int], None]
"""Told how many more images are through."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows index * size to (index + 1) * size of a manifest."""

    index: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a finished shard."""

    rows: int
    failed: int


@dataclass(frozen=True, slots=True)
class ShardScorer:
    """How shards are scored; small, and the same in every process."""

    run: Path
    detector: str
    """Digest of what lies in the run folder: no worker scores with anything else."""
    out: Path
    device: str = "auto"
    precision: Precision = "fp32"
    maps: bool = False
    decoders: int = DECODERS

    def file(self, shard: int) -> Path:
        return shard_file(self.out, shard)

    def score(self, shard: Shard, tick: Tick) -> Counts:
        """Score and write a shard. Raises ScoringError, DiskError and what `load` raises."""
        fitted = _loaded(self.run, self.detector, self.device, self.precision)
        if not self.maps:
            lines = list(self._lines(fitted, shard, tick, None))
        else:
            lines = []
            file = self.out / MAPS / f"shard-{shard.index:06d}.npy"
            side = fitted.detector.input_spec.side

            def write(temporary: Path) -> None:
                with temporary.open("wb") as opened:
                    maps = _MapFile(opened, len(shard.rows), side)
                    lines.extend(self._lines(fitted, shard, tick, maps))
                    maps.close()

            write_file(file, write)
        write_table(self.file(shard.index), lines)
        return Counts(len(lines), sum(line[-1] is not None for line in lines))

    def _lines(
        self, fitted: FittedDetector, shard: Shard, tick: Tick, maps: _MapFile | None
    ) -> Iterator[tuple[Any, ...]]:
        """A line of COLUMNS for every row, in order."""
        places = {row.id: place for place, row in enumerate(shard.rows)}
        lines: list[tuple[Any, ...] | None] = [None] * len(shard.rows)

        def remember(row: Row, error: DataError) -> None:
            lines[places[row.id]] = (*_known(row), None, None, None, str(error))
            tick(1)

        manifest = Manifest(shard.rows, "", "shard")
        for one in fitted.score_rows(manifest, on_error=remember, decoders=self.decoders):
            place = places[one.row.id]
            lines[place] = (*_known(one.row), one.score, *fitted.meaning(one.score), None)
            if maps is not None:
                maps.put(place, one.anomaly_map)
            tick(1)
        for line in lines:
            assert line is not None, "score_rows gives or refuses every row"
            yield line


def shard_file(out: Path, shard: int) -> Path:
    return out / SHARDS / f"shard-{shard:06d}.parquet"


def counts_of(file: Path) -> Counts | None:
    """From the footer of a shard; None where there is no whole one."""
    import pyarrow
    import pyarrow.parquet

    try:
        footer = pyarrow.parquet.read_metadata(file)
    except (OSError, pyarrow.ArrowException):
        return None
    error = COLUMNS.index("error")
    groups = [footer.row_group(i).column(error).statistics for i in range(footer.num_row_groups)]
    return Counts(footer.num_rows, footer.num_rows - sum(group.null_count for group in groups))


def errors_in(file: Path) -> list[tuple[str, str]]:
    """(id, error) of the images of a shard that could not be scored."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as opened:
        table = opened.read(["id", "error"])
    pairs = zip(table["id"].to_pylist(), table["error"].to_pylist(), strict=True)
    return [(name, error) for name, error in pairs if error is not None]


@lru_cache(maxsize=1)
def _loaded(run: Path, digest: str, device: str, precision: Precision) -> FittedDetector:
    """Once a process: a worker scores many shards."""
    if not run.is_dir() or detector_digest(run) != digest:
        raise ScoringError(
            f"{run}: expected the run that scoring was begun with, found "
            f"{'another state of it' if run.is_dir() else 'no such folder'} on this machine; "
            "every worker needs the same run folder, on storage that all share."
        )
    return load(run, device=device, precision=precision)


def _known(row: Row) -> tuple[str, str | None, bool | None]:
    return row.id, row.patient, row.label


def write_table(file: Path, lines: list[tuple[Any, ...]]) -> None:
    """Lines of COLUMNS to a shard. Raises DiskError."""
    import pyarrow
    import pyarrow.parquet

    text, number, truth = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
    kinds = (text, text, truth, number, number, truth, text)
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    columns = list(zip(*lines, strict=True))
    arrays = [
        pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)
    ]
    table = pyarrow.Table.from_arrays(arrays, schema=schema)
    write_file(file, lambda temporary: pyarrow.parquet.write_table(table, temporary))


class _MapFile:
    """A .npy file of float32 (n, S, S), written map by map; NaN where a row has none."""

    def __init__(self, file: IO[bytes], count: int, side: int) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, side, side)}
        np.lib.format.write_array_header_1_0(file, header)
        self.file, self.count, self.side, self.written = file, count, side, 0

    def put(self, place: int, anomaly_map: NDArray[np.float32]) -> None:
        """place: at or after that of the last call plus one."""
        self._skip_to(place)
        self.file.write(np.ascontiguousarray(anomaly_map, "<f4").tobytes())
        self.written += 1

    def close(self) -> None:
        self._skip_to(self.count)

    def _skip_to(self, place: int) -> None:
        blank = np.full((self.side, self.side), np.nan, "<f4").tobytes()
        for _ in range(place - self.written):
            self.file.write(blank)
        self.written = place
