import logging
from pathlib import Path
from typing import NamedTuple

import pytest

from scanomaly.data.bmad import BMAD_SETS, canonical_name
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.errors import DataError


class Layout(NamedTuple):
    """A published tree: images and masks as (path, split, abnormal)."""

    root: str
    dataset: str
    images: dict[str, tuple[str, bool]]
    masks: dict[str, str]
    """Mask path -> path of its image."""


# Spec bmad.md section 3, spelled out path by path.
LAYOUTS = {
    "A: QFAE": Layout(
        "Brain",
        "Brain",
        {
            "train/good/img/00000_60.png": ("train", False),
            "train/good/img/00000_61.png": ("train", False),
            "test/good/img/00001_60.png": ("test", False),
            "test/Ungood/img/00002_60.png": ("test", True),
        },
        {
            "test/good/label/00001_60.png": "test/good/img/00001_60.png",
            "test/Ungood/label/00002_60.png": "test/Ungood/img/00002_60.png",
        },
    ),
    "A: QFAE chest, with val": Layout(
        "Chest",
        "Chest",
        {
            "train/good/img/Normal-1.png": ("train", False),
            "val/good/img/Normal-2.png": ("valid", False),
            "val/Ungood/img/Lung_Opacity_3.png": ("valid", True),
            "test/Ungood/img/No-Not-Normal_4.png": ("test", True),
        },
        {},
    ),
    "B: MVFA and IQE-CLIP": Layout(
        "Retina_RESC_AD",
        "Retina_RESC",
        {
            "valid/good/img/1_1.png": ("valid", False),
            "valid/Ungood/img/2_1.png": ("valid", True),
            "test/good/img/3_1.png": ("test", False),
            "test/Ungood/img/4_1.png": ("test", True),
        },
        {
            "valid/Ungood/anomaly_mask/2_1.png": "valid/Ungood/img/2_1.png",
            "test/Ungood/anomaly_mask/4_1.png": "test/Ungood/img/4_1.png",
        },
    ),
    "C: BMAD, label-only": Layout(
        "OCT2017",
        "Retina_OCT2017",
        {
            "train/good/NORMAL-1038998-1.jpeg": ("train", False),
            "valid/Ungood/CNV-6294785-1.jpeg": ("valid", True),
            "test/Ungood/DME-15307-1.JPEG": ("test", True),
            "test/good/NORMAL-12494-1.jpeg": ("test", False),
        },
        {},
    ),
    "C: BMAD brain": Layout(
        "bras2021",
        "Brain",
        {
            "train/good/img/1_60.png": ("train", False),
            "valid/Ungood/img/2_60.png": ("valid", True),
            "test/good/img/3_60.PNG": ("test", False),
            "test/Ungood/img/4_60.PNG": ("test", True),
        },
        {
            "valid/Ungood/anomaly_mask/2_60.png": "valid/Ungood/img/2_60.png",
            "test/Ungood/anomaly_mask/4_60.png": "test/Ungood/img/4_60.PNG",
        },
    ),
    "D: liver, levels swapped": Layout(
        "liver",
        "Liver",
        {
            "train/good/7_10.png": ("train", False),
            "hist_DIY/valid/img/good/7_11.png": ("valid", False),
            "hist_DIY/test/img/good/8_12.png": ("test", False),
            "hist_DIY/test/img/Ungood/9_13.png": ("test", True),
        },
        {
            "hist_DIY/test/label/good/8_12.png": "hist_DIY/test/img/good/8_12.png",
            "hist_DIY/test/label/Ungood/9_13.png": "hist_DIY/test/img/Ungood/9_13.png",
        },
    ),
    "D: liver, all below hist_DIY": Layout(
        "Liver_AD",
        "Liver",
        {
            "hist_DIY/train/good/7_10.png": ("train", False),
            "hist_DIY/test/img/Ungood/9_13.png": ("test", True),
        },
        {"hist_DIY/test/label/Ungood/9_13.png": "hist_DIY/test/img/Ungood/9_13.png"},
    ),
    "D: RESC": Layout(
        "RESC",
        "Retina_RESC",
        {
            "Train/train/good/1_1.png": ("train", False),
            "Val/val/good/2_1.png": ("valid", False),
            "Val/val/Ungood/3_1.png": ("valid", True),
            "Test/test/good/4_1.png": ("test", False),
            "Test/test/Ungood/5_1.png": ("test", True),
        },
        {
            "Val/val_label/Ungood/3_1.png": "Val/val/Ungood/3_1.png",
            "Test/test_label/Ungood/5_1.png": "Test/test/Ungood/5_1.png",
        },
    ),
    "E: anomalib": Layout(
        "Histopathology",
        "Histopathology",
        {
            "train/good/1.png": ("train", False),
            "valid/good/img/2.png": ("valid", False),
            "test/good/img/3.png": ("test", False),
            "test/Ungood/img/4.tif": ("test", True),
            "test/Ungood/img/5.bmp": ("test", True),
        },
        {
            "test/good/label/3.png": "test/good/img/3.png",
            "test/Ungood/label/4.png": "test/Ungood/img/4.tif",
            "test/Ungood/label/5.png": "test/Ungood/img/5.bmp",
        },
    ),
    "any case": Layout(
        "Brain",
        "Brain",
        {"TRAIN/Good/IMG/1_1.png": ("train", False), "TEST/ungood/IMG/2_1.png": ("test", True)},
        {"TEST/ungood/Label/2_1.png": "TEST/ungood/IMG/2_1.png"},
    ),
}


def relative(manifest: Manifest, root: Path) -> dict[str, tuple[str | None, bool | None]]:
    return {row.path.relative_to(root).as_posix(): (row.split, row.label) for row in manifest}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_published_layout(layout, build):
    root = build(layout.root, [*layout.images, *layout.masks])
    manifest = read_manifest(root)
    assert relative(manifest, root) == layout.images
    masks = {
        row.mask.relative_to(root).as_posix(): row.path.relative_to(root).as_posix()
        for row in manifest
        if row.mask
    }
    assert masks == layout.masks
    assert manifest.dataset == layout.dataset
    assert manifest.source.startswith("BMAD layout: ")
    ids = [row.id for row in manifest]
    assert ids == sorted(set(ids))


def test_hidden_and_foreign_files_are_not_images(build):
    names = ["train/good/1.png", "train/good/._1.png", "__MACOSX/train/good/._1.png"]
    root = build("Brain", names)
    (root / "train/good/Thumbs.db").write_bytes(b"")
    (root / "README.md").write_text("text")
    assert [row.id for row in read_manifest(root)] == ["train/good/1"]


def test_links_are_followed_once(build, tmp_path):
    elsewhere = build("store", ["1.png"])
    root = tmp_path / "Brain"
    (root / "train").mkdir(parents=True)
    (root / "train/good").symlink_to(elsewhere)
    (elsewhere / "img").symlink_to(elsewhere)
    assert len(read_manifest(root)) == 1


def test_unknown_folders_are_named(build):
    root = build("Brain", ["train/good/1.png", "test/broken/2.png", "extra/deep/3.png"])
    with pytest.raises(DataError, match=r"found extra, test/broken\. Move them"):
        read_manifest(root)


def test_folder_without_good(build):
    root = build("Brain", ["train/img/1.png"])
    with pytest.raises(DataError, match=r"train/img: 1 images lie where .* train/good/img"):
        read_manifest(root)


def test_no_normal_training_images(build):
    manifest = read_manifest(build("Brain", ["test/good/1.png", "train/Ungood/2.png"]))
    with pytest.raises(DataError, match=r"normal training images, found none among 2 .*train/good"):
        manifest.training()


@pytest.mark.parametrize(
    "name",
    ["train/test/good/1.png", "test/good/Ungood/1.png", "test/good/img/label/1.png", "1.png"],
)
def test_contradicting_folders(build, name):
    with pytest.raises(DataError, match="one split and one class cannot be told"):
        read_manifest(build("Brain", ["train/good/1.png", name]))


@pytest.mark.parametrize(
    "twice", ["val/good/1.png", "valid/img/good/1.png", "valid/good/img/1.png"]
)
def test_two_folders_for_the_same_images(build, twice):
    with pytest.raises(DataError, match="both hold files of the same split, class and kind"):
        read_manifest(build("Brain", ["valid/good/1.png", twice]))


def test_exact_case_wins(build, caplog):
    root = build("Brain", ["test/good/1.png", "test/Ungood/2.png", "test/ungood/3.png"])
    assert {row.path.name for row in read_manifest(root)} == {"1.png", "2.png"}
    assert "only test/Ungood is read" in caplog.text


def test_set_without_images(tmp_path):
    (tmp_path / "Brain/train/good").mkdir(parents=True)
    (tmp_path / "Brain/train/good/volume.nii.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"found 1 x \.nii\.gz; DICOM and volumes are not read yet"):
        read_manifest(tmp_path / "Brain")


def test_missing_mask_is_named(build, caplog):
    root = build(
        "Brain",
        ["test/Ungood/img/1_1.png", "test/Ungood/img/2_1.png", "test/Ungood/label/1_1.png"],
    )
    rows = {row.path.name: row.mask for row in read_manifest(root)}
    assert rows["2_1.png"] is None
    assert "1 of 2 abnormal images have no mask" in caplog.text
    assert "test/Ungood/img/2_1" in caplog.text


def test_maskless_set_is_silent(build, caplog):
    manifest = read_manifest(build("Chest", ["test/Ungood/1.png", "train/good/2.png"]))
    assert not manifest.has_masks
    assert caplog.text == ""


def test_mask_without_image(build, caplog):
    read_manifest(build("Brain", ["test/Ungood/img/1_1.png", "test/Ungood/label/9_9.png"]))
    assert "1 masks belong to no image, for example 9_9.png" in caplog.text


def test_masks_of_one_stem(build):
    images = ["test/Ungood/img/1.png", "test/Ungood/img/1.bmp"]
    labels = ["test/Ungood/label/1.png", "test/Ungood/label/1.bmp"]
    rows = list(read_manifest(build("Brain", [*images, *labels])))
    assert [row.id for row in rows] == images[::-1]
    assert all(row.mask is not None and row.mask.name == row.path.name for row in rows)
    other = [images[0], "test/Ungood/label/1.tif", "test/Ungood/label/1.bmp"]
    with pytest.raises(DataError, match=r"1\.bmp, 1\.tif could each be its mask"):
        read_manifest(build("Liver", other))


def test_jpeg_masks_are_reported(build, caplog):
    read_manifest(build("Brain", ["test/Ungood/img/1_1.png", "test/Ungood/label/1_1.jpg"]))
    assert "1 masks are JPEG" in caplog.text


@pytest.mark.parametrize(
    ("dataset", "name", "patient"),
    [
        ("Brain", "train/good/BraTS2021_00017_60.png", "BraTS2021_00017"),
        ("Liver", "train/good/7_112.png", "btcv-7"),
        ("Liver", "test/good/7_112.png", "lits-7"),
        ("Retina_RESC", "test/good/31_5.png", "31"),
        ("Retina_OCT2017", "test/Ungood/DRUSEN-95633-2.jpeg", "95633"),
        ("Retina_OCT2017", "test/good/other.jpeg", None),
        ("Chest", "test/Ungood/Lung_Opacity_1-2_3.png", None),
        ("Histopathology", "test/good/12_3.png", None),
        ("MyHospital", "test/good/12_3.png", None),
    ],
)
def test_patients(build, dataset, name, patient):
    (row,) = read_manifest(build(dataset, [name]))
    assert row.patient == patient
    assert row.dataset == dataset


@pytest.mark.parametrize(
    ("dataset", "name", "kind"),
    [
        ("Retina_OCT2017", "test/Ungood/DRUSEN-95633-2.jpeg", "DRUSEN"),
        ("Retina_OCT2017", "test/good/NORMAL-95633-2.jpeg", None),
        ("Retina_OCT2017", "test/Ungood/other.jpeg", None),
        ("Chest", "test/Ungood/Lung_Opacity_1-2_3.png", None),
    ],
)
def test_kinds_of_anomalies(build, dataset, name, kind):
    (row,) = read_manifest(build(dataset, [name]))
    assert row.kind == kind


def test_names_and_codes():
    assert {name: known.code for name, known in BMAD_SETS.items()} == {
        "Brain": 3,
        "Liver": 2,
        "Retina_RESC": 1,
        "Retina_OCT2017": -1,
        "Chest": -2,
        "Histopathology": -3,
    }
    assert canonical_name("RESC_AD") == canonical_name("retina_resc") == "Retina_RESC"
    assert canonical_name("Liver_processed") == "Liver"
    assert canonical_name("phantom") is None


def test_counts_are_logged(build, caplog):
    caplog.set_level(logging.INFO)
    layout = LAYOUTS["A: QFAE"]
    read_manifest(build("Brain", [*layout.images, *layout.masks]))
    assert "train: 2 good, 0 Ungood; test: 1 good, 1 Ungood; 3 patients; 2 masks" in caplog.text
