"""Manifests read in passes: the same rows as the reader of small ones, and what it refuses."""

import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from scanomaly.data import streaming
from scanomaly.data.rows import Row
from scanomaly.data.streaming import StreamedManifest
from scanomaly.errors import DataError

LINES = [
    ("a", "x/1.png", "0", "p1"),
    ("b", "x/2.png", "Ungood", ""),
    ("", "x/3.png", "", "p2"),
    ("7", "y/4.png", "1", "p2"),
]


def write_csv(path: Path, lines: list[tuple[str, ...]], header: str = "id,path,label,patient"):
    path.write_text("\n".join([header, *(",".join(line) for line in lines)]) + "\n")
    return StreamedManifest(path)


def rows_of(manifest: StreamedManifest, size: int = 1000) -> list[Row]:
    return [row for _, table in manifest.shards(size) for row in manifest.rows_of(table)]


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks even of a short file."""
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 64)
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 3)


class TestRows:
    """What a row becomes."""

    @pytest.fixture
    def expected(self, tmp_path):
        return [
            Row("a", tmp_path / "x/1.png", label=False, patient="p1"),
            Row("b", tmp_path / "x/2.png", label=True),
            Row("x/3.png", tmp_path / "x/3.png", patient="p2"),
            Row("7", tmp_path / "y/4.png", label=True, patient="p2"),
        ]

    def test_csv(self, tmp_path, expected):
        manifest = write_csv(tmp_path / "m.csv", LINES)
        assert manifest.check() == 4
        assert rows_of(manifest) == expected

    def test_a_spreadsheets_csv(self, tmp_path, expected):
        """Byte-order mark, semicolons, capitals, blanks, other columns, line ends of Windows."""
        lines = [f"{d}; {b};{c};{a};note\r\n" for a, b, c, d in LINES]
        text = "Patient;PATH;Label;Id;Other\r\n" + "".join(lines)
        (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert rows_of(StreamedManifest(tmp_path / "m.csv")) == expected

    def test_parquet_with_numbers(self, tmp_path):
        columns = {
            "path": ["1.png", "2.png", "3.png"],
            "id": [10, 11, 12],
            "label": [1.0, None, 0.0],
            "patient": pyarrow.array([b"p", None, b"q"]).cast(pyarrow.string()).dictionary_encode(),
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
        manifest = StreamedManifest(tmp_path / "m.parquet")
        assert manifest.check() == 3
        assert rows_of(manifest) == [
            Row("10", tmp_path / "1.png", label=True, patient="p"),
            Row("11", tmp_path / "2.png"),
            Row("12", tmp_path / "3.png", label=False, patient="q"),
        ]

    def test_only_paths_and_a_line_break_in_another_column(self, tmp_path):
        (tmp_path / "m.csv").write_text('path,report\na.png,"two\nlines"\n/else/b.png,\n')
        manifest = StreamedManifest(tmp_path / "m.csv")
        assert manifest.check() == 2
        assert rows_of(manifest) == [
            Row("a.png", tmp_path / "a.png"),
            Row("/else/b.png", Path("/else/b.png")),
        ]

    def test_paths_hold_in_any_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_csv(Path("m.csv"), LINES)
        assert rows_of(StreamedManifest(Path("m.csv")))[0].path == tmp_path / "x/1.png"


class TestShards:
    """Deterministic, in order, of one size but the last."""

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    @pytest.mark.parametrize("size", [1, 4, 10, 50])
    def test_sizes(self, tmp_path, small_blocks, kind, size):
        names = [f"id{i}" for i in range(23)]
        manifest = write_csv(tmp_path / "m.csv", [(n, f"{n}.png", "", "") for n in names])
        if kind == "parquet":
            table = pyarrow.table({"id": names, "path": [f"{n}.png" for n in names]})
            pyarrow.parquet.write_table(table, tmp_path / "m.parquet", row_group_size=5)
            manifest = StreamedManifest(tmp_path / "m.parquet")
        assert manifest.check() == 23
        found = [(i, manifest.rows_of(table)) for i, table in manifest.shards(size)]
        assert [i for i, _ in found] == list(range(-(-23 // size)))
        assert {len(rows) for _, rows in found[:-1]} <= {size}
        assert [row.id for _, rows in found for row in rows] == names


class TestRefused:
    """One line with the row and the remedy."""

    def test_ids_given_twice(self, tmp_path, small_blocks):
        names = [f"id{i % 37}" for i in range(40)]
        manifest = write_csv(tmp_path / "m.csv", [(n, "x.png", "", "") for n in names])
        message = (
            "each id may be listed once, found 'id0' in rows 2 and 39, 'id1' in rows 3 and 40, "
            "'id2' in rows 4 and 41."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            manifest.check()

    def test_many_ids_given_twice(self, tmp_path):
        names = [f"id{i % 30}" for i in range(60)]
        manifest = write_csv(tmp_path / "m.csv", [(n, "x.png", "", "") for n in names])
        with pytest.raises(DataError, match=r"'id4' in rows 6 and 36 and 25 more\.$"):
            manifest.check()

    def test_a_path_that_is_another_rows_id(self, tmp_path):
        manifest = write_csv(
            tmp_path / "m.csv", [("", "a.png", "", ""), ("a.png", "b.png", "", "")]
        )
        with pytest.raises(DataError, match=r"'a\.png' in rows 2 and 3"):
            manifest.check()

    def test_hashes_alone_refuse_nothing(self, tmp_path, monkeypatch):
        """Different ids of one hash are looked at in a second pass."""
        monkeypatch.setattr(streaming, "hash", lambda _: 5, raising=False)
        assert write_csv(tmp_path / "m.csv", LINES).check() == 4

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ([*LINES, ("e", "", "", "")], r"m\.csv, row 6: the path is empty"),
            ([*LINES, ("e", "x", "ill", "")], r"row 6: label: expected one of 0, .*, got 'ill'"),
            ([], r"m\.csv: expected at least one row below the header, found none"),
            ([*LINES, ("e", "x")], r"m\.csv: expected a CSV file in UTF-8: .*Expected 4 columns"),
        ],
    )
    def test_cells(self, tmp_path, lines, message):
        with pytest.raises(DataError, match=message):
            write_csv(tmp_path / "m.csv", lines).check()

    def test_a_row_in_a_later_block_is_named(self, tmp_path, small_blocks):
        lines = [(f"i{i}", "x.png", "ill" if i == 33 else "1", "") for i in range(40)]
        with pytest.raises(DataError, match="row 35: label"):
            write_csv(tmp_path / "m.csv", lines).check()

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("m.csv", b"", r"m\.csv: expected a CSV file in UTF-8: Empty CSV"),
            ("m.csv", b"id,file\na,b\n", r"expected a column 'path' \(of id, .*\), got id, file"),
            ("m.csv", b"path\n\xff\xfe\xfd\n", r"m\.csv: expected a CSV file in UTF-8: "),
            ("m.parquet", b"path\n", r"m\.parquet: expected a Parquet file: "),
        ],
    )
    def test_files(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            StreamedManifest(tmp_path / name).check()

    def test_no_manifest(self, tmp_path):
        with pytest.raises(DataError, match=r"m\.csv: expected a manifest .*, found no such file"):
            StreamedManifest(tmp_path / "m.csv").digest()
        (tmp_path / "m.xlsx").write_text("x")
        with pytest.raises(DataError, match=r"\(\.csv or \.parquet\), found another kind of file"):
            StreamedManifest(tmp_path / "m.xlsx").digest()


def test_the_digest_is_that_of_the_content(tmp_path):
    first = write_csv(tmp_path / "a.csv", LINES).digest()
    assert write_csv(tmp_path / "b.csv", LINES).digest() == first
    assert write_csv(tmp_path / "a.csv", LINES[1:]).digest() != first


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """pyarrow reads some dozens of blocks ahead, not the file."""
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 1 << 16)
    path = tmp_path / "m.csv"
    rows = 300_000
    with path.open("w") as file:
        file.write("id,path,note\n")
        file.writelines(f"scan-{i},{i % 9}.png,{'word ' * 20}\n" for i in range(rows))
    assert path.stat().st_size > 35e6
    before = pyarrow.total_allocated_bytes()
    manifest, most = StreamedManifest(path), 0
    for _, table in manifest.shards(2000):
        most = max(most, pyarrow.total_allocated_bytes() - before)
        assert isinstance(manifest.rows_of(table.slice(0, 2)), tuple)
    assert most < 10e6, f"{most / 1e6:.0f} MB"
