"""checks/duplicates.py: copies, copies that were written again, and what only resembles."""

import shutil

import numpy as np
import pytest
from PIL import Image

from doctor.folders import findings, healthy, images, only, picture, save
from scanomaly.doctor.checks import duplicates
from scanomaly.doctor.checks.duplicates import ALIKE, _closest, _Group, _vectors
from scanomaly.doctor.facts import measure


@pytest.fixture
def root(tmp_path):
    return healthy(tmp_path / "own")


class TestExact:
    def test_across_splits_whatever_the_format(self, root):
        source, target = images(root, "train")[0], images(root, "test", "good")[0]
        target.unlink()
        Image.open(source).save(target.with_suffix(".bmp"))
        found = only(root, "duplicate")
        assert (found.severity, found.files) == (
            "error",
            ("test/good/img/000.bmp", "train/good/img/000.png"),
        )
        assert "1 test and train" in found.found
        assert findings(root, "near duplicate") == [], "said once"

    def test_across_labels(self, root):
        shutil.copy(images(root, "test", "good")[0], images(root, "test", "Ungood")[0])
        found = only(root, "duplicate")
        assert (found.severity, "normal and abnormal at once" in found.found) == ("error", True)

    def test_within_a_split(self, root):
        for copy in images(root, "train")[1:3]:
            shutil.copy(images(root, "train")[0], copy)
        found = only(root, "duplicate")
        assert (found.severity, "3 files in all" in found.found) == ("warning", True)


class TestNear:
    @pytest.mark.parametrize(
        "change",
        [
            lambda grey: grey + np.random.default_rng(0).normal(0, 3, grey.shape),
            lambda grey: grey * 0.8 + 20,
            lambda grey: 255 * (grey / 255) ** 0.85,
            lambda grey: grey[1:-1, 1:-1].repeat(2, axis=0).repeat(2, axis=1),
        ],
        ids=["noise", "contrast", "gamma", "size"],
    )
    def test_a_changed_copy_in_another_split(self, root, change):
        source = np.array(Image.open(images(root, "train")[0]), np.float64)
        if change(source).shape != source.shape:
            source = np.pad(source, 1)
        save(images(root, "test", "good")[0], change(source).clip(0, 255).astype(np.uint8))
        found = only(root, "near duplicate")
        assert (found.severity, "1 test and train" in found.found) == ("warning", True)
        assert set(found.files) == {"test/good/img/000.png", "train/good/img/000.png"}

    def test_a_changed_copy_of_the_other_label(self, root):
        copy = np.array(Image.open(images(root, "test", "good")[0])) // 2 + 30
        save(images(root, "test", "Ungood")[0], copy)
        assert "of the other label" in only(root, "near duplicate").found
        assert findings(root, "duplicate") == []

    def test_neighbouring_slices_of_one_patient_in_one_split(self, root):
        good, bad = images(root, "test", "good")[0], images(root, "test", "Ungood")[0]
        save(bad, np.array(Image.open(good)) // 2 + 30)

        def named(first, second):
            lines = [f"{good.relative_to(root)},0,{first}", f"{bad.relative_to(root)},1,{second}"]
            rows = "\n".join(f"{line},test" for line in lines)
            (root / "manifest.csv").write_text(f"path,label,patient,split\n{rows}\n")
            return findings(root, "near duplicate")

        assert named("7", "7") == []
        assert len(named("7", "8")) == 1
        assert len(named("", "")) == 1


def test_the_search_agrees_with_all_pairs_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "_AT_ONCE", 7)
    random = np.random.default_rng(0)
    pictures = [picture(seed) for seed in range(20)]
    others = [*pictures[:10], *(picture(seed) for seed in range(50, 60))]
    noisy = [
        p + random.normal(0, sigma, p.shape) for sigma, p in zip(range(20), others, strict=True)
    ]
    groups = []
    for name, kind in (("a", pictures), ("b", noisy)):
        paths = [
            save(tmp_path / name / f"{place}.png", np.clip(p, 0, 255).astype(np.uint8))
            for place, p in enumerate(kind)
        ]
        facts = [measure(path) for path in paths]
        patients = np.full(len(facts), -1)
        groups.append(_Group(paths, [f.digest for f in facts], _vectors(facts), patients))
    thumbnails = [
        np.array([measure(path).thumbnail.ravel() for path in group.rows], float)
        for group in groups
    ]
    correlation = np.corrcoef(*thumbnails)[:20, 20:]
    expected = {(i, j) for i, j in np.argwhere(correlation >= ALIKE)}
    found = set(_closest(*groups, other_patients=False))
    assert found == expected
    assert 2 < len(found) <= 10
