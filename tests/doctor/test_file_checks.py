"""checks/files.py and checks/masks.py: one spoiled folder for each finding.

The healthy folder of `test_examination` gives none of them.
"""

import numpy as np
import pytest

from doctor.folders import findings, healthy, images, only, picture, rewritten, save, spot
from scanomaly.doctor import CHECKS


@pytest.fixture
def root(tmp_path):
    return healthy(tmp_path / "own")


def mask_of(image):
    return image.parent.parent / "label" / image.name


class TestFiles:
    def test_truncated_and_empty(self, root):
        first, second = images(root, "test", "good")[:2]
        first.write_bytes(first.read_bytes()[:60])
        second.write_bytes(b"")
        found = only(root, "unreadable")
        assert (found.severity, found.files) == (
            "error",
            ("test/good/img/000.png", "test/good/img/001.png"),
        )
        assert found.found.startswith("2 files cannot be read")

    def test_a_broken_mask_counts(self, root):
        mask_of(images(root, "test", "Ungood")[0]).write_bytes(b"x")
        assert only(root, "unreadable").files == ("test/Ungood/label/000.png",)

    def test_too_small(self, root):
        save(images(root, "train")[0], picture(0)[:7, :9])
        found = only(root, "unreadable")
        assert "smaller than 8x8" in found.found

    def test_nan(self, root):
        image = images(root, "train")[0]
        image.unlink()
        pixels = picture(0).astype(np.float32)
        pixels[3, 3] = np.inf
        save(image.with_suffix(".tif"), pixels)
        assert only(root, "NaN").severity == "error"

    def test_constant(self, root):
        for image in images(root, "train")[:2]:
            save(image, np.full((24, 24), 7, np.uint8))
        assert only(root, "constant image").found.startswith("2 images")
        assert findings(root, "duplicate") == [], "said once, under its own name"

    def test_a_file_in_disguise(self, root):
        image = images(root, "train")[0]
        save(image.with_suffix(".jpg"), picture(0)).rename(image)
        assert "JPEG in .png" in only(root, "file type").found

    def test_leftovers(self, root):
        (root / "test" / "good" / "label").mkdir()
        assert only(root, "empty folder").files == ("test/good/label",)
        save(root / "test" / "Ungood" / "label" / "other.png", spot())
        assert only(root, "mask without image").files == ("test/Ungood/label/other.png",)
        (root / "train" / "good" / "img" / "scan.dcm").write_bytes(b"x")
        assert "DICOM" in only(root, "unused images").found
        save(root / "manifest.csv.png", picture(0))
        (root / "manifest.csv").write_text("path,label,split\ntrain/good/img/000.png,0,train\n")
        notes = [f for f in findings(root, "unused images") if f.severity == "note"]
        assert len(notes) == 1, "a manifest may leave images out"


class TestMasks:
    def test_masks_among_the_images(self, root):
        save(images(root, "train")[0], spot())
        save(images(root, "train")[1], (spot() > 0).astype(np.uint8))
        found = only(root, "mask as image")
        assert (found.severity, found.found.split()[0]) == ("error", "2")

    def test_images_named_like_masks(self, root):
        image = images(root, "train")[0]
        image.rename(image.with_name("000_mask.png"))
        assert only(root, "mask as image").severity == "warning"

    def test_images_among_the_masks(self, root):
        image = images(root, "test", "Ungood")[0]
        save(mask_of(image), np.array(next(rewritten([image]))[1]))
        found = findings(root, "image as mask")
        assert [f.severity for f in found] == ["error"]

    def test_lossy_masks(self, root):
        image = images(root, "test", "Ungood")[0]
        mask_of(image).unlink()
        save(mask_of(image).with_suffix(".jpg"), spot())
        assert only(root, "lossy mask").severity == "warning"
        assert findings(root, "multi-level mask") == findings(root, "image as mask") == []

    def test_several_levels(self, root):
        mask = spot()
        mask[9:11] //= 2
        save(mask_of(images(root, "test", "Ungood")[0]), mask)
        found = only(root, "multi-level mask")
        assert (found.severity, "(0, 127, 255)" in found.found) == ("note", True)

    def test_another_size(self, root):
        save(mask_of(images(root, "test", "Ungood")[0]), spot(30))
        found = only(root, "mask size")
        assert found.severity == "error"
        assert "30x30 for 24x24" in found.found

    def test_empty_inverted_and_marked(self, root):
        first, second = images(root, "test", "Ungood")[:2]
        save(mask_of(first), np.zeros((24, 24), np.uint8))
        save(mask_of(second), 255 - spot())
        save(mask_of(images(root, "test", "good")[0]), spot())
        assert only(root, "empty mask").files == ("test/Ungood/label/000.png",)
        assert only(root, "inverted mask").files == ("test/Ungood/label/001.png",)
        assert only(root, "mask of normal image").severity == "error"
        save(mask_of(images(root, "test", "good")[0]), np.zeros((24, 24), np.uint8))
        assert findings(root, "mask of normal image") == []

    def test_some_missing_and_all_missing(self, root):
        for number, image in enumerate(images(root, kind="Ungood")):
            mask_of(image).unlink()
            if number == 0:
                assert only(root, "missing mask").severity == "warning"
        assert only(root, "missing mask").severity == "note"

    def test_a_published_set_with_masks_must_have_them(self, root):
        brain = root.rename(root.parent / "Brain")
        for image in images(brain, kind="Ungood"):
            mask_of(image).unlink()
        assert only(brain, "missing mask").severity == "warning"

    def test_one_mask_for_two(self, root):
        lines = [
            f"{image.relative_to(root)},1,test,test/Ungood/label/000.png"
            for image in images(root, "test", "Ungood")[:2]
        ]
        (root / "manifest.csv").write_text("\n".join(["path,label,split,mask", *lines]))
        assert only(root, "shared mask").severity == "warning"


def test_every_check_says_what_it_looks_for():
    assert all(check.__doc__ for check in CHECKS)
    assert len(set(CHECKS)) == len(CHECKS)
