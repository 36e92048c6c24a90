"""checks/depth.py and checks/shortcuts.py: one spoiled folder for each finding."""

import numpy as np
import pytest

from doctor.folders import findings, healthy, images, only, picture, rewritten, save
from scanomaly.doctor.checks.shortcuts import PROPERTIES


@pytest.fixture
def root(tmp_path):
    return healthy(tmp_path / "own")


def deep(pixels, seed=0):
    """16 bits with some noise below the eighth."""
    noise = np.random.default_rng(seed).integers(0, 100, pixels.shape)
    return (pixels.astype(np.uint16) * 100 + noise).astype(np.uint16)


@pytest.fixture
def deep_root(root):
    for number, (path, pixels) in enumerate(rewritten(images(root))):
        save(path, deep(pixels, number))
    return root


class TestDepth:
    def test_healthy_deep_images(self, deep_root):
        assert {f.severity for f in findings(deep_root)} == {"note"}

    def test_mixed(self, root):
        save(images(root, "train")[0], deep(picture(0)))
        found = only(root, "bit depth")
        assert "1 images have more than 8 bits and 57 have 8" in found.found

    def test_converted_from_8_bits(self, deep_root):
        save(images(deep_root, "train")[0], picture(0).astype(np.uint16) * 100)
        assert only(deep_root, "8 bits in a deep file").files == ("train/good/img/000.png",)

    def test_clipped(self, deep_root):
        save(images(deep_root, "test", "good")[0], np.minimum(deep(picture(0)), 9_000))
        found = only(deep_root, "16-bit clipping")
        assert "plateau at their brightest value" in found.found
        assert "at 9000" in found.found

    def test_the_training_window_cuts_lesions(self, deep_root):
        before = [f.severity for f in findings(deep_root, "intensity window")]
        assert "warning" not in before
        for path, pixels in rewritten(images(deep_root, "test", "Ungood")[:6]):
            pixels[5:9, 5:9] = 40_000 + np.arange(16, dtype=np.uint16).reshape(4, 4)
            save(path, pixels)
        found = only(deep_root, "intensity window")
        assert found.severity == "warning"
        assert "(7 abnormal)" in found.found or "(6 abnormal)" in found.found
        assert "data.window" in found.remedy

    def test_scales_that_differ(self, deep_root):
        for number, (path, pixels) in enumerate(rewritten(images(deep_root, "train"))):
            save(path, pixels if number % 2 else pixels // 16)
        assert "cannot serve them all" in only(deep_root, "intensity scales").found

    def test_white_8_bit_images(self, root):
        assert findings(root, "saturated") == []
        for path, pixels in rewritten(images(root)):
            save(path, np.minimum(pixels.astype(int) * 2, 255).astype(np.uint8))
        assert only(root, "saturated").severity == "note"


def framed(pixels):
    pixels[:2] = pixels[-2:] = 255
    return pixels


def cornered(pixels):
    pixels[:4, :4] = 255
    return pixels


class TestShortcuts:
    @pytest.mark.parametrize(
        ("change", "names"),
        [
            (lambda p: np.pad(p, ((0, 0), (2, 2))), {"width", "shape (width to height)"}),
            (lambda p: np.stack([p] * 3, axis=2), {"colour mode"}),
            (lambda p: np.stack([p, p, p // 2], axis=2), {"colour mode", "colour"}),
            (deep, {"bit depth", "colour mode"}),
            (framed, {"border brightness", "black border"}),
            (cornered, {"brightest corner"}),
        ],
        ids=["size", "mode", "colour", "depth", "border", "corner"],
    )
    def test_a_property_that_gives_the_label_away(self, root, change, names):
        for path, pixels in rewritten(images(root, "test", "Ungood")):
            save(path, change(pixels))
        errors = [f for f in findings(root, "shortcut") if f.severity == "error"]
        assert names <= {f.found.partition(" alone")[0] for f in errors}
        found = next(f for f in errors if f.found.startswith(min(names)))
        assert "AUROC 1.000 (95 % interval 1.000 to 1.000)" in found.found
        assert found.files == ("test/good/img/000.png", "test/Ungood/img/000.png")

    def test_file_type(self, root):
        for path, pixels in rewritten(images(root, "test", "Ungood")[:12]):
            save(path.with_suffix(".bmp"), pixels)
            path.unlink()
        found = next(f for f in findings(root, "shortcut") if f.found.startswith("file type"))
        assert found.severity == "warning"
        assert "AUROC 0.800" in found.found
        assert "BMP: 0% of normal, 60% of abnormal" in found.found

    def test_a_property_that_both_classes_share(self, root):
        for number, (path, pixels) in enumerate(rewritten(images(root))):
            save(path, np.pad(pixels, ((0, 0), (2, 2))) if number % 2 else pixels)
        assert findings(root, "shortcut") == []

    def test_splits_of_one_class_are_compared_with_each_other(self, root):
        for path in (*images(root, "valid"), *images(root, "test", "good")):
            path.unlink()
        assert findings(root, "shortcut") == []
        for path, pixels in rewritten(images(root, "test", "Ungood")):
            save(path, np.pad(pixels, 2))
        found = findings(root, "shortcut")
        assert any("height alone" in f.found and "of all splits" in f.found for f in found)

    def test_too_few_images_tell_nothing(self, root):
        for path, pixels in rewritten(images(root, "*", "Ungood")):
            save(path, np.pad(pixels, 2)) if path.stem < "005" else path.unlink()
        for path in images(root, "valid", "Ungood"):
            path.unlink()
        assert findings(root, "shortcut") == []

    def test_bright_lesions_are_a_baseline_not_an_error(self, root):
        for path, pixels in rewritten(images(root, "*", "Ungood")):
            save(path, np.where(pixels > 0, pixels // 2 + 120, 0).astype(np.uint8))
        found = [f for f in findings(root, "shortcut") if f.found.startswith("mean brightness")]
        assert [f.severity for f in found] == ["warning"]
        assert "baseline" in found[0].remedy

    def test_normal_test_images_from_elsewhere(self, root):
        for path, pixels in rewritten(images(root, "train")):
            save(path, np.pad(pixels, 3))
        found = findings(root, "split shift")
        assert {f.severity for f in found} == {"warning"}
        assert any("median 30 in train, 24 in test" in f.found for f in found)

    def test_nan_images_are_left_out(self, root):
        path = images(root, "test", "good")[0]
        path.unlink()
        save(path.with_suffix(".tif"), np.full((24, 24), np.nan, np.float32))
        assert all("nan" not in f.found for f in findings(root, "shortcut"))

    def test_properties_have_names_of_their_own(self):
        assert len({prop.name for prop in PROPERTIES}) == len(PROPERTIES)
