"""Triples of pictures as tensors: the published resize, crop, jitter and normalisation."""

import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from scanomaly.config.vqa import VqaDataConfig
from scanomaly.data.mivqa import write_pictures
from scanomaly.errors import DataError
from scanomaly.records import Triple
from scanomaly.vqa.images import (
    evaluation_images,
    read_pictures,
    training_images,
    triple_images,
)

DATA = VqaDataConfig(resize=32, crop=24)
BGR = VqaDataConfig(resize=32, crop=24, colour="bgr")


def drawn(seed, height=40, width=36):
    """Smooth colours, so that a shift of half a pixel shows."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def files(tmp_path):
    return write_pictures(tmp_path, "case", (drawn(1), drawn(2), drawn(3)))


def as_published(path, data):
    """OpenCV and torchvision, step by step as the released code does it; channels blue first."""
    pixels = cv2.resize(cv2.imread(str(path)), (data.resize, data.resize))
    steps = [v2.CenterCrop(data.crop), v2.Normalize([0.5] * 3, [0.5] * 3)]
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return v2.Compose(steps)(image)


def test_evaluation_images_are_the_published_ones(files):
    found = evaluation_images(read_pictures(files, BGR), BGR)
    for image, path in zip(found, files, strict=True):
        torch.testing.assert_close(image, as_published(path, BGR))


def test_red_first_unless_asked(files):
    rgb = evaluation_images(read_pictures(files, DATA), DATA)
    bgr = evaluation_images(read_pictures(files, BGR), BGR)
    for one, other in zip(rgb, bgr, strict=True):
        torch.testing.assert_close(one, other.flip(0))
        assert not torch.equal(one, other)


def test_published_sides_crop_sixteen_pixels_all_round():
    plane = np.arange(256, dtype=np.uint8)[:, None] * np.ones((1, 256), np.uint8)
    picture = np.repeat(plane[..., None], 3, axis=2)
    data = VqaDataConfig()
    image = evaluation_images((picture,) * 3, data)[0]
    assert image.shape == (3, 224, 224)
    rows = ((image[0, :, 0] + 1) * 127.5).round()
    assert (rows[0], rows[-1]) == (16, 239)


def test_a_triple_in_memory_is_seen_as_its_files_are(files):
    pixels = [np.asarray(Image.open(path)) for path in files]
    tensors = [torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in pixels]
    both = [torch.cat([tensor, tensor.flip(-1)]) for tensor in tensors]
    found = triple_images(Triple(*both, ids=("a", "b")), BGR)
    expected = evaluation_images(read_pictures(files, BGR), BGR)
    for batch, image in zip(found, expected, strict=True):
        assert batch.shape == (2, 3, 24, 24)
        assert torch.equal(batch[0], image)
        assert not torch.equal(batch[1], image)


def test_a_triple_that_is_not_finite_is_refused():
    image = torch.rand(1, 3, 8, 8)
    broken = image.clone()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="expected a finite anomaly_map"):
        triple_images(Triple(image, broken, image, ids=("a",)), DATA)


def without_jitter(**changes):
    return VqaDataConfig(resize=32, crop=24, jitter=0.0, **changes)


def where_cut(image, picture):
    """(top, left) of a crop without jitter."""
    whole = torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1
    for top in range(9):
        for left in range(9):
            if torch.allclose(whole[:, top : top + 24, left : left + 24], image, atol=1e-6):
                return top, left
    raise AssertionError("no crop of the picture")


@pytest.mark.parametrize("joint", [True, False])
def test_crops_are_joint_or_each_its_own(files, joint):
    data = without_jitter(joint_crop=joint)
    pictures = read_pictures(files, data)
    places = []
    for epoch in range(12):
        images = training_images(pictures, data, (42, epoch, 0))
        places.append([where_cut(*pair) for pair in zip(images, pictures, strict=True)])
    assert all(len(set(three)) == 1 for three in places) is joint
    assert len({three[0] for three in places}) > 4  # and they move


def test_every_corner_of_the_picture_can_be_cut(files):
    data = without_jitter()
    pictures = read_pictures(files, data)
    found = {
        where_cut(training_images(pictures, data, (epoch,))[0], pictures[0])[0]
        for epoch in range(60)
    }
    assert found == set(range(9))


def test_the_same_draw_gives_the_same_images(files):
    pictures = read_pictures(files, DATA)
    first, again, other = (training_images(pictures, DATA, (0, e, 5)) for e in (1, 1, 2))
    for one, two, three in zip(first, again, other, strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


def test_jitter_stays_in_its_bounds():
    grey = np.full((32, 32, 3), 100, np.uint8)
    means = []
    for epoch in range(200):
        image = training_images((grey,) * 3, DATA, (epoch,))[0]
        assert image.unique().numel() == 1  # brightness alone moves an even picture
        means.append(float((image[0, 0, 0] + 1) / 2 * 255))
    assert 50 <= min(means) < 60
    assert 140 < max(means) <= 150.001


def test_colours_are_jittered_too(files):
    pictures = read_pictures(files, DATA)
    data = without_jitter(joint_crop=True)
    plain = training_images(pictures, data, (3,))[0]
    jittered = training_images(pictures, DATA.model_copy(update={"joint_crop": True}), (3,))[0]
    assert plain.min() >= -1
    assert jittered.max() <= 1
    ratio = (jittered + 1) / (plain + 1).clamp(min=1e-3)
    assert ratio.std() > 0.01  # not brightness alone


def test_pictures_of_other_sizes_are_resized(files, tmp_path, caplog):
    small = write_pictures(tmp_path, "small", (drawn(1, 20, 18),) * 3)
    with caplog.at_level(logging.WARNING):
        mixed = read_pictures((files[0], small[1], files[2]), DATA)
    assert [picture.shape for picture in mixed] == [(32, 32, 3)] * 3
    assert not caplog.records  # the same view, only coarser
    wide = write_pictures(tmp_path, "wide", (drawn(1, 20, 40),) * 3)
    with caplog.at_level(logging.WARNING):
        assert read_pictures((files[0], files[1], wide[2]), DATA)[2].shape == (32, 32, 3)
    assert "wide_rec.png has 20x40 pixels (height x width), its image case_orig.png has 40x36" in (
        caplog.text
    )


def test_a_picture_that_vanished(files):
    files[1].unlink()
    with pytest.raises(DataError, match=r"case_anomaly\.png: cannot be read"):
        read_pictures(files, DATA)


def test_sixteen_bits_go_through_the_window(files, tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.linspace(0, 4000, 1024).reshape(32, 32).astype(np.uint16)).save(deep)
    with pytest.raises(DataError, match=r"deep.png: has uint16 .*data.window=\[LOW,HIGH\]"):
        read_pictures((deep, *files[1:]), DATA)
    data = VqaDataConfig(resize=32, crop=32, window=(1000.0, 3000.0))
    image, anomaly_map, _ = evaluation_images(read_pictures((deep, *files[1:]), data), data)
    assert (image.min(), image.max()) == (-1, 1)
    assert image[0].flatten()[512] == pytest.approx(0, abs=2e-3)
    plain = data.model_copy(update={"window": None})
    assert torch.equal(anomaly_map, evaluation_images(read_pictures(files, plain), plain)[1])


def test_grey_files_become_three_equal_channels(tmp_path):
    grey = write_pictures(tmp_path, "grey", (drawn(1)[..., 0],) * 3)
    image = evaluation_images(read_pictures(grey, DATA), DATA)[0]
    assert torch.equal(image[0], image[2])
