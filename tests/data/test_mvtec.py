import pytest

from scanomaly.data.manifest import read_manifest, read_manifests
from scanomaly.data.splits import few_shot
from scanomaly.errors import DataError

IMAGES = {
    "train/good/000.png": ("train", False),
    "train/good/001.png": ("train", False),
    "test/good/000.png": ("test", False),
    "test/broken_large/000.png": ("test", True),
    "test/broken_large/001.png": ("test", True),
    "test/contamination/000.png": ("test", True),
}
MASKS = {
    "ground_truth/broken_large/000_mask.png": "test/broken_large/000.png",
    "ground_truth/broken_large/001_mask.png": "test/broken_large/001.png",
    "ground_truth/contamination/000_mask.png": "test/contamination/000.png",
}


@pytest.fixture
def bottle(build):
    root = build("mvtec/bottle", [*IMAGES, *MASKS])
    (root / "license.txt").write_text("text")
    return root


def test_one_category(bottle):
    manifest = read_manifest(bottle)

    def relative(path):
        return path.relative_to(bottle).as_posix()

    assert {relative(r.path): (r.split, r.label) for r in manifest} == IMAGES
    assert {relative(r.mask): relative(r.path) for r in manifest if r.mask} == MASKS
    assert (manifest.dataset, manifest.source) == ("bottle", "MVTec layout: 2 kinds of defect")
    ids = [r.id for r in manifest]
    assert ids == sorted(set(ids))
    assert manifest.training().counts() == {"train": (2, 0)}


def test_categories_of_a_folder(bottle, build):
    root = build("mvtec/cable", ["train/good/0.png", "ground_truth/cut/0.png"]).parent
    assert [m.dataset for m in read_manifests(root)] == ["bottle", "cable"]
    assert len(read_manifest(root, "bottle")) == 6


def test_masks_may_have_the_image_s_own_name(build):
    root = build("03", ["test/ko/1.bmp", "test/ko/2.bmp", "ground_truth/ko/1.png"])
    masks = {r.path.name: r.mask for r in read_manifest(root)}
    assert masks == {"1.bmp": root / "ground_truth/ko/1.png", "2.bmp": None}


def test_missing_masks_and_images_are_named(bottle, caplog):
    (bottle / "ground_truth/contamination/000_mask.png").unlink()
    (bottle / "test/broken_large/001.png").unlink()
    read_manifest(bottle)
    assert "1 of 2 abnormal images have no mask" in caplog.text
    assert "test/contamination/000" in caplog.text
    assert "1 masks belong to no image, for example 001_mask.png" in caplog.text


@pytest.mark.parametrize("place", ["test/1.png", "extra/good/1.png", "test/cut/deep/1.png"])
def test_images_elsewhere(bottle, save, place):
    save(f"mvtec/bottle/{place}")
    with pytest.raises(DataError, match=r"1 images lie where .* expected train/good, test/good"):
        read_manifest(bottle)


def test_a_category_without_images(build):
    root = build("bottle", ["ground_truth/cut/1_mask.png"])
    (root / "train").mkdir()
    with pytest.raises(DataError, match="expected images"):
        read_manifest(root)


def test_few_shot_takes_its_abnormal_images_from_test(bottle):
    support = few_shot(read_manifest(bottle), 2, "test:1")
    assert {(r.split, r.label) for r in support} == {("train", False), ("test", True)}
    assert support.label_only == frozenset()
