from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from scanomaly.data.manifest import Row, list_images, read_manifest
from scanomaly.errors import DataError

HEADER = "id,patient,path,label,mask,split"


@pytest.fixture
def table(build):
    """Write a CSV manifest beside the images a.png, b.png and m.png."""

    def write(*lines: str, name: str = "mine.csv") -> Path:
        path = build("set", ["a.png", "sub/b.png", "m.png"]) / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_every_column(table):
    path = table(HEADER, "one,p1,sub/b.png,1,m.png,test", "two,p2,a.png,0,,train")
    root = path.parent
    assert read_manifest(path).rows == (
        Row("one", root / "sub/b.png", "test", True, root / "m.png", "p1", "mine"),
        Row("two", root / "a.png", "train", False, None, "p2", "mine"),
    )


def test_kinds_of_anomalies(table):
    path = table("path,label,kind", "a.png,0,", "sub/b.png,1,cyst", "m.png,1,")
    assert {row.id: row.kind for row in read_manifest(path)} == {
        "a": None,
        "m": None,
        "sub/b": "cyst",
    }


def test_path_alone_is_enough(table):
    rows = read_manifest(table("path", "sub/b.png", "a.png"), "Other").rows
    assert [(r.id, r.label, r.split, r.patient) for r in rows] == [
        ("a", None, None, None),
        ("sub/b", None, None, None),
    ]
    assert {r.dataset for r in rows} == {"Other"}


def test_spreadsheet_dialect(table):
    path = table("\ufeffPath;Label; Split;colour", "a.png;Ungood;VAL;red", "sub/b.png;normal;")
    rows = read_manifest(path).rows
    assert [(r.label, r.split) for r in rows] == [(True, "valid"), (False, None)]


def test_absolute_path(table, tmp_path, save):
    outside = save("elsewhere/c.png")
    rows = read_manifest(table("path", str(outside), "a.png")).rows
    assert {r.path for r in rows} == {outside, tmp_path / "set/a.png"}


def test_parquet(build):
    root = build("set", ["a.png", "b.png"])
    columns = {
        "path": ["a.png", "b.png"],
        "label": [1.0, float("nan")],
        "patient": [7.0, None],
        "split": ["test", None],
        "age": [50, 60],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "mine.parquet")
    rows = read_manifest(root / "mine.parquet").rows
    assert [(r.id, r.label, r.patient, r.split) for r in rows] == [
        ("a", True, "7", "test"),
        ("b", None, None, None),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "a.png,0"], r"expected a column 'path' .*got file, label"),
        (["path"], "expected at least one row"),
        ([], "expected a column 'path'"),
        (["path", "gone.png"], r"row 2: no file .*gone\.png; paths are relative"),
        (["path,label", ",0"], "row 2: the path is empty"),
        (["path,mask", "a.png,gone.png"], r"row 2: no file .*gone\.png"),
        (["path,label", "a.png,0", "m.png,sick"], "row 3: label: expected one of .*got 'sick'"),
        (["path,split", "a.png,dev"], "split: expected one of train, valid, val, test or nothing"),
        (["id,path", "x,a.png", "x,m.png"], "id 'x' stands in rows 2 and 3"),
        (["id,path", "x,a.png", "y,sub/../a.png"], r"path '.*a\.png' stands in rows 2 and 3"),
        (["path", "mine.csv"], r"expected a file ending in \.png"),
    ],
)
def test_bad_tables(table, lines, message):
    with pytest.raises(DataError, match=message):
        read_manifest(table(*lines))


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"path\n\xff\xfe\n")
    (tmp_path / "x.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="expected a CSV file in UTF-8"):
        read_manifest(tmp_path / "x.csv")
    with pytest.raises(DataError, match="expected a Parquet file"):
        read_manifest(tmp_path / "x.parquet")


def test_images_to_predict(build, save):
    folder = build("scans", ["x.png", "deep/y.TIF", "label/x.png"])
    single = save("z.bmp")
    rows = list_images([single, folder, folder / "x.png"])
    assert [(r.id, r.path) for r in rows] == [
        ("deep/y", folder / "deep/y.TIF"),
        ("x", folder / "x.png"),
        ("z", single),
    ]
    assert all(r.label is None and r.split is None for r in rows)


def test_clashing_names_grow(build):
    first = build("one", ["x.png", "x.jpg", "y.png"])
    second = build("two", ["x.png"])
    ids = [row.id for row in list_images([first, second])]
    assert ids == ["one/x.png", "two/x.png", "x.jpg", "y"]


def test_mask_folders_are_left_out_loudly(build, caplog):
    folder = build("test/Ungood", ["img/1.png", "anomaly_mask/1.png"])
    assert [row.id for row in list_images([folder])] == ["img/1"]
    assert "1 files left out, 'anomaly_mask' is taken for a folder of masks" in caplog.text


def test_nothing_to_predict(tmp_path):
    (tmp_path / "scan.dcm").write_bytes(b"x")
    with pytest.raises(DataError, match="at least one image"):
        list_images([])
    with pytest.raises(DataError, match="export slices as 16-bit PNG"):
        list_images([tmp_path])
    with pytest.raises(DataError, match="expected a file ending in"):
        list_images([tmp_path / "scan.dcm"])
    with pytest.raises(DataError, match="found nothing"):
        list_images([tmp_path / "gone.png"])


def test_scans_beside_images_are_reported(build, caplog):
    folder = build("scans", ["x.png"])
    (folder / "y.dcm").write_bytes(b"x")
    list_images([folder])
    assert "1 DICOM or volume files are left out" in caplog.text
