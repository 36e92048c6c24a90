"""Embeddings as labelled points: images as means, patches by their masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shown import GRID, Shown

from noise_bench import Bench, Brightness
from scanomaly.errors import ConfigError, DataError
from scanomaly.figures.clouds import PATCHES_OF_A_CLASS, Cloud, clouds, require_embeddings
from scanomaly.methods import METHODS
from scanomaly.records import Embedding


@pytest.fixture(scope="module")
def images(bench: Bench) -> list[Cloud]:
    return clouds(bench.fitted, bench.manifest, "images", 0)


@pytest.fixture(scope="module")
def patches(bench: Bench) -> list[Cloud]:
    return clouds(bench.fitted, bench.manifest, "patches", 0)


def features(bench: Bench, place: int) -> tuple[np.ndarray, np.ndarray]:
    """An embedding of every image, and their masks as shares of each patch (28, 16)."""
    vectors, shares = [], []
    for batch in bench.fitted.batches(bench.manifest, with_masks=True):
        vectors.append(Shown().embeddings(batch)[place].vectors)
        shares.append(torch.nn.functional.avg_pool2d(batch.mask.float(), GRID).flatten(1))
    return torch.cat(vectors).numpy(), torch.cat(shares).numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_each_place_is_a_cloud_of_all_images(bench, images):
    places = [(cloud.figure, cloud.row, cloud.column) for cloud in images]
    assert places == [
        ("features", "frozen", "block 0"),
        ("features", "adapted", "block 0"),
        ("prompts", "embeddings", "block 0"),
    ]
    labels = np.array([row.label for row in bench.manifest])
    for cloud in images[:2]:
        assert (cloud.label == labels).all()
        assert (cloud.image == np.arange(28)).all(), "more than one batch"
    expected = unit(features(bench, 0)[0].mean(axis=1))
    np.testing.assert_allclose(images[0].vectors, expected, rtol=1e-5)


def test_several_series_share_a_place(bench, images):
    cloud = images[2]
    assert len(cloud.vectors) == 56
    labels = np.array([row.label for row in bench.manifest])
    for place, name in ((2, "text"), (3, "query")):
        chosen = np.array(cloud.series) == name
        order = np.argsort(cloud.image[chosen])
        np.testing.assert_allclose(
            cloud.vectors[chosen][order], unit(features(bench, place)[0]), rtol=1e-5
        )
        assert (cloud.label[chosen][order] == labels).all()


def test_patches_are_labelled_by_their_masks(bench, patches):
    """More than half abnormal, or not at all; what lies between says nothing."""
    vectors, shares = features(bench, 0)
    assert ((shares > 0) & (shares <= 0.5)).any(), "this test needs patches between"
    for cloud in patches:
        assert (cloud.figure, cloud.column) == ("features", "block 0"), "whole images are left out"
        for index in range(28):
            chosen = cloud.image == index
            bad = int((shares[index] > 0.5).sum())
            good = int((shares[index] == 0).sum())
            assert cloud.label[chosen].sum() == min(bad, PATCHES_OF_A_CLASS)
            assert (~cloud.label[chosen]).sum() == min(good, PATCHES_OF_A_CLASS)
    frozen = patches[0]
    for vector, index, label in zip(frozen.vectors, frozen.image, frozen.label, strict=True):
        same = np.isclose(unit(vectors[index]), vector, atol=1e-6).all(axis=1)
        assert same.sum() == 1
        assert (shares[index][same] > 0.5) == label


def test_the_same_patches_are_shown_before_and_after(patches):
    frozen, adapted = patches
    assert (frozen.image == adapted.image).all()
    assert (frozen.label == adapted.label).all()


def test_the_seed_decides_which_patches(bench, patches):
    again, other = (clouds(bench.fitted, bench.manifest, "patches", seed) for seed in (0, 1))
    assert np.array_equal(again[0].vectors, patches[0].vectors)
    assert not np.array_equal(other[0].vectors, patches[0].vectors)


def test_patches_of_an_image_without_its_mask_are_left_out(bench, patches):
    lost = [row.id for row in bench.manifest if row.label][:2]
    rows = tuple(replace(r, mask=None) if r.id in lost else r for r in bench.manifest)
    (found, _) = clouds(bench.fitted, replace(bench.manifest, rows=rows), "patches", 0)
    kept = [index for index, row in enumerate(rows) if row.id not in lost]
    assert sorted(set(found.image)) == kept


def test_patches_need_masks(bench):
    rows = tuple(replace(row, mask=None) for row in bench.manifest)
    with pytest.raises(DataError, match=r"Brain: expected masks to tell .* found none .*leave"):
        clouds(bench.fitted, replace(bench.manifest, rows=rows), "patches", 0)


def test_a_method_that_shows_whole_images_only_has_no_patches(bench, monkeypatch):
    plain = Shown.embeddings
    monkeypatch.setattr(Shown, "embeddings", lambda self, batch: plain(self, batch)[2:])
    with pytest.raises(ConfigError, match=r"qfae shows no single patches, .*; leave out --patches"):
        clouds(bench.fitted, bench.manifest, "patches", 0)


def test_a_method_without_embeddings_names_those_that_have_some(bench):
    without = {"prompted_clip", "anomalib"}  # nothing in them is adapted
    able = ", ".join(name for name in METHODS if name not in without)
    with pytest.raises(ConfigError, match=rf"qfae has no embeddings to show; .* runs of {able}\."):
        require_embeddings(replace(bench.fitted, detector=Brightness()))
    require_embeddings(bench.fitted)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3,), r"vectors \(B, E\) or \(B, L, E\), got \(3,\)"), ((2, 5, 3), r"square of L .* got 5")],
)
def test_vectors_of_wrong_shapes_say_what_was_expected(shape, message):
    with pytest.raises(ValueError, match=message):
        Embedding("features", "frozen", "block 0", torch.zeros(shape))
