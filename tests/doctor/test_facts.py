"""What is measured of one file, against arrays whose numbers are known."""

import numpy as np
import pytest
from PIL import Image

from doctor.folders import picture, save, spot
from scanomaly.doctor.facts import QUANTILES, THUMBNAIL, measure


def test_a_grey_picture(tmp_path):
    pixels = picture(0)
    facts = measure(save(tmp_path / "x.png", pixels))
    assert (facts.kind, facts.mode, facts.bits) == ("PNG", "L", 8)
    assert (facts.height, facts.width) == pixels.shape
    assert (facts.low, facts.high) == (0, pixels.max())
    assert facts.mean == pytest.approx(pixels.mean())
    assert facts.spread == pytest.approx(pixels.std())
    assert facts.levels == len(np.unique(pixels))
    assert facts.positive == pytest.approx((pixels > 0).mean())
    assert (facts.tint, facts.border, facts.dark_border) == (0, 0, 1)
    assert facts.thumbnail is not None
    assert facts.thumbnail.shape == (THUMBNAIL, THUMBNAIL)
    assert facts.quantiles == ()


def test_the_format_does_not_change_the_digest(tmp_path):
    names = ("x.png", "x.tif", "x.bmp")
    digests = {measure(save(tmp_path / name, picture(0))).digest for name in names}
    assert len(digests) == 1
    assert measure(save(tmp_path / "y.png", picture(1))).digest not in digests


def test_a_deep_picture(tmp_path):
    pixels = np.arange(900, dtype=np.uint16).reshape(30, 30) * 50
    facts = measure(save(tmp_path / "x.png", pixels))
    assert (facts.bits, facts.levels, facts.high) == (16, 900, 44_950)
    at = dict(zip(QUANTILES, facts.quantiles, strict=True))
    assert at[0.5] == pytest.approx(np.quantile(pixels, 0.5), abs=50)
    assert (at[0.0], at[1.0]) == (0, 44_950)


def test_colour_and_masks(tmp_path):
    rgb = np.zeros((10, 10, 3), np.uint8)
    rgb[..., 0], rgb[:3, :, 2] = 50, 90
    facts = measure(save(tmp_path / "x.png", rgb))
    assert facts.tint == pytest.approx(rgb.max(axis=2).mean() - rgb.min(axis=2).mean())
    assert facts.positive == 1.0
    mask = measure(save(tmp_path / "m.png", spot()))
    assert (mask.levels, mask.values) == (2, (0, 255))
    assert mask.positive == pytest.approx((spot() > 0).mean())
    assert measure(save(tmp_path / "c.png", np.full((9, 9), 3, np.uint8))).is_constant


def test_floats_with_holes(tmp_path):
    pixels = picture(0).astype(np.float32)
    pixels[0, :6] = np.nan
    facts = measure(save(tmp_path / "x.tif", pixels))
    assert facts.not_finite == pytest.approx(6 / pixels.size)
    assert facts.thumbnail is None
    assert (facts.bits, facts.high) == (32, np.nanmax(pixels))


def test_what_cannot_be_read_says_why(tmp_path):
    path = save(tmp_path / "x.png", picture(0))
    path.write_bytes(path.read_bytes()[:80])
    assert "damaged" in measure(path).error
    path.write_bytes(b"")
    assert "empty file" in measure(path).error
    assert "cannot be read" in measure(tmp_path / "gone.png").error


def test_every_corner_and_the_frame_count(tmp_path):
    for rows in (slice(0, 3), slice(-3, None)):
        for columns in (slice(0, 3), slice(-3, None)):
            pixels = picture(0)
            pixels[rows, columns] = 255
            Image.fromarray(pixels).save(tmp_path / "x.png")
            facts = measure(tmp_path / "x.png")
            assert facts.corner == 255
            assert 0 < facts.border < 255
            assert facts.dark_border < 1
