"""The whole examination: healthy data, several sets, layouts, processes, progress, interruption."""

import json
import shutil

import pytest

from doctor.folders import findings, healthy, images, only, picture, save
from scanomaly.data.mivqa import VqaItem, write_corpus
from scanomaly.doctor import examine, survey, write_json
from scanomaly.errors import DataError
from scanomaly.questions import QUESTIONS


def test_healthy_data_are_safe(tmp_path):
    diagnosis = examine(healthy(tmp_path / "own"), workers=1)
    assert diagnosis.safe
    assert diagnosis.images == 58
    assert [(f.severity, f.check) for f in diagnosis.findings] == [("note", "patients")]
    examined = diagnosis.sets[0]
    assert (examined.dataset, examined.masks) == ("own", 24)
    assert examined.counts == {"train": [10, 0, 0], "valid": [4, 4, 0], "test": [20, 20, 0]}


def test_phantoms_are_safe(tmp_path):
    pytest.importorskip("nilearn")
    from scanomaly.data.phantom import write_styles

    write_styles(tmp_path / "styles", ["oct", "tissue"], patients=6, seed=0, slices=1)
    found = examine(tmp_path / "styles", workers=1)
    assert found.safe, found.findings
    assert {examined.dataset for examined in found.sets} == {"Retinal_OCT", "Stained_Tissue"}


def test_processes_find_the_same_and_progress_reaches_the_end(tmp_path):
    root = healthy(tmp_path / "own")
    images(root)[3].write_bytes(b"no image")
    seen: list[tuple[int, int]] = []
    together = examine(root, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert together == examine(root, workers=1)
    assert not together.safe
    assert seen == [(done, 82) for done in range(1, 83)]


def test_each_file_is_decoded_once(tmp_path, monkeypatch):
    from scanomaly.data import images as reader

    root = healthy(tmp_path / "own")
    read: list[object] = []
    decode = reader._read_bytes
    monkeypatch.setattr(reader, "_read_bytes", lambda path: read.append(path) or decode(path))
    examine(root, workers=1)
    assert len(read) == len(set(read)) == 82


def test_an_interruption_ends_the_examination(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    root = healthy(tmp_path / "own")
    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            examine(root, workers=workers, progress=stop)


def test_a_killed_worker_is_said_in_words(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *_: object, **__: object) -> None: ...

        def map(self, *_: object, chunksize: int) -> None:
            raise survey.BrokenProcessPool

        def shutdown(self, cancel_futures: bool) -> None: ...

    monkeypatch.setattr(survey, "ProcessPoolExecutor", Broken)
    with pytest.raises(DataError, match=r"ended from outside.*--workers 1"):
        examine(healthy(tmp_path / "own"), workers=2)


class TestSources:
    def test_a_refused_layout_is_a_finding_and_its_images_are_looked_at(self, tmp_path):
        root = healthy(tmp_path / "own")
        (root / "train" / "good").rename(root / "train" / "goood")
        images(root, "test")[0].write_bytes(b"")
        found = only(root, "layout")
        assert found.severity == "error"
        assert "found train/goood" in found.found
        assert only(root, "unreadable").files == ("test/Ungood/img/000.png",)

    def test_one_bad_set_does_not_hide_the_others(self, tmp_path):
        healthy(tmp_path / "a")
        healthy(tmp_path / "b", 100)
        (tmp_path / "a" / "train" / "good").rename(tmp_path / "a" / "train" / "goood")
        images(tmp_path / "b")[0].write_bytes(b"")
        by_set = {(f.dataset, f.check) for f in findings(tmp_path) if f.severity == "error"}
        assert by_set == {("a", "layout"), ("b", "unreadable")}
        assert [s.dataset for s in examine(tmp_path, "b", workers=1).sets] == ["b"]

    def test_a_manifest_with_a_missing_file(self, tmp_path):
        save(tmp_path / "a.png", picture(0))
        table = tmp_path / "m.csv"
        table.write_text("path,label\na.png,0\nb.png,1\n")
        assert "no file" in only(table, "layout").found
        table.write_text("path,label\na.png,0\n")
        assert findings(table, "layout") == []

    def test_mvtec_and_plain_folders_and_triples(self, tmp_path):
        for number in range(3):
            save(tmp_path / "mvtec" / "train" / "good" / f"{number}.png", picture(number))
            save(tmp_path / "mvtec" / "test" / "good" / f"{number}.png", picture(9 + number))
            save(tmp_path / "mvtec" / "test" / "crack" / f"{number}.png", picture(19 + number))
            save(tmp_path / "plain" / f"{number}.png", picture(number))
        (tmp_path / "mvtec" / "ground_truth" / "crack").mkdir(parents=True)
        assert examine(tmp_path / "mvtec", workers=1).sets[0].source.startswith("MVTec")
        assert only(tmp_path / "plain", "labels").severity == "note"
        root = triples(tmp_path / "triples")
        diagnosis = examine(root, workers=1)
        assert diagnosis.safe
        assert diagnosis.sets[0].source == "triples.jsonl"
        (root / "image" / "c1_rec.png").write_bytes(b"")
        assert only(root, "unreadable").files == ("image/c1_rec.png",)

    @pytest.mark.parametrize(
        ("name", "dataset", "message"),
        [
            ("nothing", None, r"nothing: expected a data set.*found nothing"),
            ("own/notes.txt", None, r"expected a folder or a manifest"),
            ("", "other", r"expected a data set 'other', found a, own"),
            ("own", "Chest", r"expected data set 'Chest', got the folder"),
            ("plain", "Chest", r"found no data set at all"),
        ],
    )
    def test_mistakes_of_the_call_are_errors(self, tmp_path, name, dataset, message):
        healthy(tmp_path / "own")
        healthy(tmp_path / "a")
        save(tmp_path / "plain" / "x.png", picture(0))
        (tmp_path / "own" / "notes.txt").write_text("x")
        place = tmp_path / name
        if dataset == "Chest" and name == "own":
            place = (tmp_path / "own").rename(tmp_path / "Brain")
        with pytest.raises(DataError, match=message):
            examine(place, dataset, workers=1)


def triples(root):
    """Three cases in three splits, one question each."""
    items = []
    for number, split in enumerate(("train", "valid", "test")):
        paths = [
            save(root / "image" / f"c{number}_{ending}.png", picture(7 * number + place))
            for place, ending in enumerate(("orig", "anomaly", "rec"))
        ]
        text = QUESTIONS["O1"].text
        items.append(
            VqaItem(f"q{number}", *paths, text, "Edema.", patient=str(number), split=split)
        )
    write_corpus(root, items)
    return root


class TestAcross:
    def test_pictures_shared_by_two_sets(self, tmp_path):
        healthy(tmp_path / "a")
        healthy(tmp_path / "b", 100)
        assert findings(tmp_path, "duplicate") == []
        shutil.copy(images(tmp_path / "a")[0], images(tmp_path / "b")[0])
        assert "1 pictures are in a and in b" in only(tmp_path, "duplicate").found

    def test_a_set_twice_siblings_and_missing_sets(self, tmp_path):
        for place in ("Retina_RESC", "Retina_OCT2017", "Brain_AD"):
            save(tmp_path / place / "test" / "good" / "1_1.png", picture(len(place)))
        checks = {f.check: f for f in findings(tmp_path)}
        assert "set twice" not in checks
        assert "Liver, Chest, Histopathology are not here" in checks["missing set"].found
        assert checks["one modality"].severity == "note"
        save(tmp_path / "Brain" / "test" / "good" / "1_1.png", picture(50))
        assert only(tmp_path, "set twice").severity == "error"

    def test_two_sets_of_our_own_are_neither(self, tmp_path):
        for place in ("Brain", "Chest"):
            save(tmp_path / place / "test" / "good" / "1_1.png", picture(len(place)))
        checks = {f.check for f in findings(tmp_path)}
        assert checks.isdisjoint({"one modality", "missing set", "set twice"})


def test_findings_as_json(tmp_path):
    root = healthy(tmp_path / "own")
    images(root)[0].write_bytes(b"")
    diagnosis = examine(root, workers=1)
    write_json(diagnosis, tmp_path / "new" / "found.json")
    written = json.loads((tmp_path / "new" / "found.json").read_text())
    assert (written["safe"], written["counts"]["error"]) == (False, 1)
    assert written["findings"][0]["check"] == "unreadable"
    assert written["sets"][0]["counts"]["test"] == [20, 20, 0]
