"""checks/splits.py and checks/published.py: one spoiled folder for each finding."""

import shutil

import pytest

from doctor.folders import findings, healthy, images, only, picture, save
from scanomaly.data.bmad import BMAD_SETS
from scanomaly.data.splits import support_list
from scanomaly.doctor.published import PUBLISHED, Count, PublishedSet


@pytest.fixture
def root(tmp_path):
    return healthy(tmp_path / "own")


def table(root, lines, columns="path,label,split,patient"):
    """A manifest over the healthy images."""
    (root / "manifest.csv").write_text("\n".join([columns, *lines]))
    return root


class TestClasses:
    @pytest.mark.parametrize(
        ("split", "kind", "severity"),
        [
            ("test", "good", "error"),
            ("test", "Ungood", "error"),
            ("valid", "Ungood", "warning"),
            ("train", "good", "warning"),
        ],
    )
    def test_one_class_is_missing(self, root, split, kind, severity):
        shutil.rmtree(root / split / kind)
        found = only(root, "one-class split")
        assert found.severity == severity
        assert split in found.found

    def test_no_test_images_and_abnormal_training_images(self, root):
        shutil.rmtree(root / "test")
        assert "no labelled test image" in only(root, "one-class split").found
        (root / "valid" / "good").rename(root / "good")
        (root / "valid").rename(root / "test")
        (root / "good").rename(root / "test" / "good")
        save(root / "train" / "Ungood" / "img" / "x.png", picture(500))
        assert only(root, "one-class split").severity == "note"

    def test_imbalance(self, root):
        for image in images(root, "test", "good")[2:]:
            image.unlink()
        assert "2 normal and 20 abnormal" in only(root, "imbalance").found
        assert only(root, "small test").severity == "note"

    def test_unlabelled_images(self, root):
        label = {"good": "0", "Ungood": "1"}
        lines = [
            f"{p.relative_to(root)},{label[p.parts[-3]]},{p.parts[-4]},{number}"
            for number, p in enumerate(images(root))
        ]
        assert findings(table(root, lines), "labels") == []
        lines[0] = lines[0].replace(",0,", ",,").replace(",1,", ",,")
        assert "1 of 58 images have no label" in only(table(root, lines), "labels").found

    def test_images_of_no_split(self, root):
        first, second = images(root, "test", "good")[:2]
        lines = [f"{first.relative_to(root)},0,test,1", f"{second.relative_to(root)},0,,2"]
        assert "1 of 2 images belong to no split" in only(table(root, lines), "labels").found


class TestPatients:
    def test_leakage(self, root):
        names = [image.relative_to(root) for image in images(root, kind="good")]
        lines = [f"{name},0,{name.parts[0]},{number}" for number, name in enumerate(names)]
        assert findings(table(root, lines), "patient leakage") == []
        assert findings(root, "patients") == [], "all are known"
        train = next(place for place, name in enumerate(names) if name.parts[0] == "train")
        lines[train] = f"{names[train]},0,train,0"
        found = only(table(root, lines), "patient leakage")
        assert (found.severity, found.files) == ("error", ("test/good/img/000.png",))
        assert "in train and in test, such as 0" in found.found

    def test_some_unknown(self, root):
        lines = ["test/good/img/000.png,0,test,1", "train/good/img/000.png,0,train,"]
        assert only(table(root, lines), "patients").severity == "warning"

    def test_leakage_that_was_published(self, tmp_path):
        for split, severity in (("valid", "warning"), ("train", None)):
            save(tmp_path / "Liver" / split / "good" / "3_1.png", picture(len(split)))
            save(tmp_path / "Liver" / "test" / "good" / "3_2.png", picture(77))
            found = findings(tmp_path / "Liver", "patient leakage")
            assert [f.severity for f in found] == ["warning"], "BTCV's volume 3 is not LiTS'"
            assert severity is None or "(so published)" in found[0].found


class TestPublished:
    @pytest.fixture
    def brain(self, tmp_path, monkeypatch):
        counts = {"train": Count(10, 10, 0), "valid": Count(8), "test": Count(99, 1, 98, (40,))}
        small = PublishedSet(counts, (24, 24), ("odd",))
        monkeypatch.setattr("scanomaly.doctor.checks.published.PUBLISHED", {"Brain": small})
        return healthy(tmp_path / "Brain")

    def test_counts_as_published_or_as_others_print_them(self, brain):
        assert findings(brain, "published counts") == []
        assert only(brain, "known of this set").found.endswith("odd")
        images(brain, "train")[0].unlink()
        found = only(brain, "published counts")
        assert (found.severity, "found 9 (9 normal, 0 abnormal)" in found.found) == (
            "warning",
            True,
        )
        shutil.rmtree(brain / "train")
        assert only(brain, "published counts").severity == "note"
        images(brain, "valid")[0].unlink()
        images(brain, "test")[0].unlink()
        assert len(findings(brain, "published counts")) == 3

    def test_another_size(self, brain):
        assert findings(brain, "published size") == []
        for number, image in enumerate(images(brain)):
            save(image, picture(number, 30))
        assert "30x30; 24x24 was published" in only(brain, "published size").found

    def test_few_shot_lists(self, brain):
        listed = support_list("Brain", 16)
        for number, name in enumerate(listed.normal):
            save(brain / "valid" / "good" / "img" / name, picture(200 + number))
        assert "lacks 16 of the 32" in only(brain, "few-shot lists").found
        for number, name in enumerate(listed.abnormal):
            save(brain / "valid" / "Ungood" / "img" / name, picture(300 + number))
        assert findings(brain, "few-shot lists") == []

    def test_others_of_the_same_name_are_left_alone(self, brain):
        lines = [f"{image.relative_to(brain)},0,train" for image in images(brain, "train")[1:]]
        (brain / "phantom.csv").write_text("\n".join(["path,label,split", *lines]))
        assert findings(brain, "published counts") == [], "simulated"
        for image in images(brain):
            image.rename(brain / f"{image.parts[-4]}-{image.parts[-3]}-{image.name}")
        for name in ("train", "valid", "test", "phantom.csv"):
            place = brain / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        assert findings(brain, "known of this set") == [], "a plain folder"


def test_published_counts_add_up():
    assert PUBLISHED.keys() == BMAD_SETS.keys()
    assert {name: sum(c.total for c in p.counts.values()) for name, p in PUBLISHED.items()} == {
        "Brain": 11_298,
        "Liver": 3_201,
        "Retina_RESC": 6_217,
        "Retina_OCT2017": 27_315,
        "Chest": 26_684,
        "Histopathology": 7_321,
    }
    counts = [count for known in PUBLISHED.values() for count in known.counts.values()]
    divided = [c for c in counts if c.normal is not None and c.abnormal is not None]
    assert all(c.normal + c.abnormal == c.total for c in divided)
    assert len(divided) == 14
