"""Panel pictures: size, colour, contour, bytes."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from scanomaly.evaluation import Evaluation
from scanomaly.report.html import report_html
from scanomaly.report.pictures import (
    CONTOUR,
    colour_bar,
    columns_of,
    encoded,
    outlined,
    overlay,
    picture_of,
    plane_of,
)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 28), (196, 196)),
        ((96, 80), (192, 160)),
        ((160, 160), (160, 160)),
        ((224, 224), (224, 224)),
        ((280, 10), (280, 10)),
        ((512, 1024), (120, 240)),
        ((1, 2000), (1, 240)),
        ((1, 1), (200, 200)),
    ],
)
def test_pictures_keep_whole_pixels_or_shrink(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert picture_of(np.zeros((*shape, 3), np.uint8)).shape == (*expected, 3)
    assert plane_of(np.zeros(shape, np.float32)).shape == expected


def test_enlarging_repeats_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    assert np.array_equal(picture_of(picture)[::4, ::4], picture)
    assert np.array_equal(picture_of(picture)[3::4, 3::4], picture)


def test_shrinking_averages_and_ignores_nan() -> None:
    values = np.ones((480, 480), np.float32)
    values[::2] = 0
    assert plane_of(values) == pytest.approx(0.5, abs=1e-6)
    values[0, 0] = np.nan
    assert np.isfinite(plane_of(values)).all()


def test_overlay_leaves_zero_alone_and_clips() -> None:
    picture = np.full((1, 5, 3), 100, np.uint8)
    values = np.array([[-3.0, 0.0, np.nan, 1.0, 7.0]], np.float32)
    painted = overlay(picture, values)
    assert np.array_equal(painted[:, :3], picture[:, :3])
    assert np.array_equal(painted[0, 3], painted[0, 4])
    brightest = np.array(colormaps["inferno"](255)[:3]) * 255
    expected = 0.15 * 100 + 0.85 * brightest
    assert painted[0, 3] == pytest.approx(expected, abs=1)


def test_contour_goes_round_the_lesion() -> None:
    truth = np.zeros((20, 20), bool)
    truth[8:12, 8:12] = True
    drawn = outlined(np.zeros((20, 20, 3), np.uint8), truth)
    line = (drawn == CONTOUR).all(-1)
    assert line.any()
    assert not line[truth].any()
    assert line[7, 9]
    assert line[6, 9]
    assert not line[5, 9]


def test_columns_without_content_are_none(evaluation: Evaluation) -> None:
    hit, rejection = evaluation.panels[0], evaluation.panels[-1]
    assert all(picture is not None for picture in columns_of(hit).values())
    assert columns_of(rejection)["Truth"] is None
    bare = columns_of(replace(hit, reconstruction=None, truth=None))
    assert [name for name, one in bare.items() if one is None] == ["Reconstruction", "Truth"]


def test_smallest_lesion_survives_shrinking(evaluation: Evaluation) -> None:
    truth = np.zeros((2000, 2000), bool)
    truth[1000, 1000] = True
    large = replace(
        evaluation.panels[0],
        image=np.zeros((2000, 2000, 3), np.uint8),
        anomaly_map=np.zeros((2000, 2000), np.float32),
        reconstruction=None,
        truth=truth,
    )
    drawn = columns_of(large)["Truth"]
    assert drawn is not None
    assert (drawn == CONTOUR).all(-1).any()


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_png_is_lossless_and_grey_where_it_can_be() -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (30, 20, 3), np.uint8)
    grey = np.repeat(colour[..., :1], 3, axis=-1)
    first, second = (opened(uri) for uri in encoded([colour, grey]))
    assert np.array_equal(np.asarray(first), colour)
    assert second.mode == "L"
    assert np.array_equal(np.asarray(second), grey[..., 0])


def test_too_many_bytes_become_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert {uri.split(";")[0] for uri in encoded([noise], 9000)} == {"data:image/jpeg"}
    assert len(encoded([noise, noise], 10)) == 2


def test_nothing_to_encode() -> None:
    assert encoded([]) == []


def test_colour_bar_runs_over_black_grey_and_white() -> None:
    bar = np.asarray(opened(colour_bar()).convert("RGB"))
    assert bar.shape == (24, 256, 3)
    assert bar[[0, 12, 23], 0, 0].tolist() == [0, 128, 255]


def test_large_colour_panels_stay_within_the_budget(
    evaluation: Evaluation, variant: Callable[..., Evaluation]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 240, 3), np.uint8)
    large = replace(
        evaluation.panels[0],
        image=noise,
        anomaly_map=np.zeros((240, 240), np.float32),
        reconstruction=noise,
        truth=np.zeros((240, 240), bool),
    )
    assert len(report_html(variant(panels=(large,) * 16))) < 3.1e6
