import logging
import subprocess
import sys
from pathlib import Path

import pytest

from scanomaly.data.manifest import Manifest, Row, read_manifest, read_manifests
from scanomaly.errors import DataError


def manifest(*rows: Row) -> Manifest:
    return Manifest(tuple(rows), "Test", "by hand")


def row(name: str, **known) -> Row:
    return Row(id=name, path=Path(f"{name}.png"), **known)


def cohort(patients: int, slices: int = 3) -> Manifest:
    return manifest(
        *(
            row(f"{p}_{s}", split="train", label=False, patient=f"p{p}")
            for p in range(patients)
            for s in range(slices)
        )
    )


def test_views():
    rows = [
        row("a", split="train", label=False),
        row("b", split="test", label=False),
        row("c", split="test", label=True, mask=Path("c_mask.png")),
        row("d", split="test"),
        row("e"),
    ]
    whole = manifest(*rows)
    assert whole.split("test").rows == tuple(rows[1:4])
    assert whole.normals().rows == tuple(rows[:2])
    assert whole.abnormals().rows == (rows[2],)
    assert whole.training().rows == (rows[0],)
    assert whole.counts() == {"train": (1, 0), "test": (1, 1), None: (0, 0)}
    assert whole.has_masks
    assert not whole.normals().has_masks
    assert len(whole) == 5


def test_groups_are_patients_or_images():
    mixed = manifest(row("a", patient="p"), row("b", patient="p"), row("c"))
    assert mixed.groups() == ["p", "p", "c"]
    assert not mixed.patients_known
    assert cohort(2).patients_known
    assert not manifest().patients_known


def test_patient_overlap_is_loud(build, caplog):
    names = ["train/good/1_1.png", "valid/good/7_1.png", "valid/good/8_1.png", "test/good/7_2.png"]
    found = read_manifest(build("Liver", names))
    assert found.patient_overlap() == {("valid", "test"): {"lits-7"}}
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "1 patients occur in both valid and test (for example lits-7)" in record.getMessage()


def test_hold_out_is_by_patient_and_seeded():
    whole = cohort(20)
    kept, held = whole.hold_out(0.1, seed=3)
    assert len(held) == 6
    assert {r.patient for r in kept}.isdisjoint({r.patient for r in held})
    assert sorted(r.id for r in (*kept, *held)) == sorted(r.id for r in whole)
    assert whole.hold_out(0.1, seed=3) == (kept, held)
    shuffled = manifest(*whole.rows[::-1])
    assert {r.id for r in shuffled.hold_out(0.1, seed=3)[1]} == {r.id for r in held}
    assert len({whole.hold_out(0.1, seed)[1] for seed in range(10)}) > 1


def test_hold_out_bounds():
    assert len(cohort(2).hold_out(0.01, seed=0)[1]) == 3
    assert len(cohort(2).hold_out(0.99, seed=0)[0]) == 3
    assert len(cohort(1).hold_out(0, seed=0)[1]) == 0
    with pytest.raises(DataError, match="at least two patients"):
        cohort(1).hold_out(0.1, seed=0)
    with pytest.raises(ValueError, match="below 1"):
        cohort(3).hold_out(1.0, seed=0)


@pytest.fixture
def sets(build) -> Path:
    build("BMAD/Brain", ["train/good/1_1.png"])
    build("BMAD/Retina_RESC_AD", ["valid/good/img/1_1.png"])
    build("BMAD/unpacked/Mine_AD", ["test/good/1_1.png"])
    return build("BMAD", ["leaflet.png"])


@pytest.mark.parametrize(
    ("asked", "dataset"),
    [
        ("Brain", "Brain"),
        ("brain_ad", "Brain"),
        ("bras2021", "Brain"),
        ("Retina_RESC", "Retina_RESC"),
        ("resc", "Retina_RESC"),
        ("mine", "Mine_AD"),
    ],
)
def test_one_of_several_sets(sets, asked, dataset):
    found = read_manifest(sets, asked)
    assert (found.dataset, len(found)) == (dataset, 1)


def test_sets_are_listed(sets):
    listed = r"Brain, Retina_RESC_AD, Mine_AD"
    with pytest.raises(DataError, match=rf"several data sets \({listed}\); name one"):
        read_manifest(sets)
    with pytest.raises(DataError, match=rf"expected a data set 'Liver', found {listed}"):
        read_manifest(sets, "Liver")


def test_ambiguous_set(build):
    build("BMAD/Brain", ["train/good/1_1.png"])
    root = build("BMAD/Brain_AD", ["test/good/1_1.png"]).parent
    assert read_manifest(root, "Brain").counts() == {"train": (1, 0)}
    assert read_manifest(root, "Brain_AD").counts() == {"test": (1, 0)}
    with pytest.raises(DataError, match=r"'brain' could be .*Brain and .*Brain_AD"):
        read_manifest(root, "brain")


def test_the_only_set_needs_no_name(build):
    assert read_manifest(build("BMAD/Brain", ["train/good/1_1.png"]).parent).dataset == "Brain"


def test_a_name_tells_how_patients_are_written(build):
    root = build("copy", ["train/good/1_1.png"])
    assert read_manifest(root).rows[0].patient is None
    assert read_manifest(root, "Brain").rows[0].patient == "1"


def test_another_set_than_asked(build):
    with pytest.raises(DataError, match="expected data set 'liver', got the folder of 'Brain'"):
        read_manifest(build("Brain_AD", ["train/good/1_1.png"]), "liver")


def test_every_set_of_a_folder(sets):
    found = read_manifests(sets)
    assert [m.dataset for m in found] == ["Brain", "Mine_AD", "Retina_RESC"]
    assert [len(m) for m in found] == [1, 1, 1]


def test_one_set_is_a_folder_of_one(sets):
    assert [m.dataset for m in read_manifests(sets / "Brain")] == ["Brain"]
    table = sets / "mine.csv"
    table.write_text("path\nBrain/train/good/1_1.png\n")
    assert [m.dataset for m in read_manifests(table)] == ["mine"]


def test_a_set_twice_in_a_folder(build):
    build("BMAD/Brain", ["train/good/1_1.png"])
    root = build("BMAD/Brain_AD", ["test/good/1_1.png"]).parent
    with pytest.raises(DataError, match=r"BMAD/Brain and .*Brain_AD both hold data set 'Brain'"):
        read_manifests(root)


def test_a_folder_without_sets(build, tmp_path):
    for root in (build("scans", ["a.png"]), tmp_path / "missing"):
        with pytest.raises(DataError, match=r"expected a folder of data sets .*found none"):
            read_manifests(root)


def test_plain_folder(build):
    found = read_manifest(build("scans", ["b.png", "a/b.JPG"]))
    assert [r.id for r in found] == ["a/b", "b"]
    assert found.source == "plain folder"
    assert found.counts() == {None: (0, 0)}


def test_one_split_alone(build):
    root = build("Brain/test", ["good/1_1.png", "Ungood/2_1.png"])
    with pytest.raises(DataError, match="no split above them"):
        read_manifest(root)


@pytest.mark.parametrize("table", ["manifest.csv", "phantom.csv"])
def test_table_in_a_folder_describes_it(build, table):
    root = build("Mine", ["train/good/x.png", "test/Ungood/y.png"])
    (root / table).write_text("path,patient,split,label\ntrain/good/x.png,p1,train,0\n")
    found = read_manifest(root)
    assert [(r.id, r.patient) for r in found] == [("train/good/x", "p1")]
    assert (found.dataset, found.source) == ("Mine", f"CSV manifest {table}")


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="found nothing"):
        read_manifest(tmp_path / "missing")
    with pytest.raises(DataError, match=r"expected images \(png, .*found no files"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="expected data set 'Brain' in it, found no data set"):
        read_manifest(tmp_path, "Brain")


def test_an_archive_is_no_manifest(tmp_path):
    (tmp_path / "Brain.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="unpack an archive"):
        read_manifest(tmp_path / "Brain.tar.gz")


def test_reading_a_manifest_loads_no_torch():
    code = "import sys, scanomaly.data.manifest; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
