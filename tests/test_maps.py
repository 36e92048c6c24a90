"""Aggregations against the published ones and against explicit loops."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_parity import assert_parity
from scanomaly.maps import IMAGE_SCORES, PIXEL_MAPS, geometric_mean, mean_filter, upsample
from scanomaly.metrics import area_under_roc, pixel_counts

PIXEL_RULES = {
    "mean.mean": "mean",
    "mean.max": "max",
    "max.mean": "mean",
    "max.max": "max",
    "pixelwise_mean_max": "mean",
    "pixelwise_max_mean": "max",
    "downsample_8x8": "pooled",
}
"""Published mode -> our name of the pixel map that goes with it."""


@pytest.fixture(scope="module")
def table(golden) -> dict[str, Tensor]:
    return load_file(golden("qfae_scores.safetensors"))


def test_every_published_mode_is_ours():
    assert PIXEL_RULES.keys() == IMAGE_SCORES.keys()
    assert set(PIXEL_RULES.values()) == set(PIXEL_MAPS)


@pytest.mark.parametrize("mode", IMAGE_SCORES)
def test_published_image_scores(table, mode):
    assert_parity(IMAGE_SCORES[mode](table["in.maps"]), table[f"out.image.{mode}"])


@pytest.mark.parametrize("mode", PIXEL_RULES)
def test_published_pixel_maps_and_pixel_auroc(table, mode):
    found = PIXEL_MAPS[PIXEL_RULES[mode]](table["in.maps"])
    assert_parity(found[:, 0], table[f"out.pixel.{mode}"])
    masks = table["in.masks"][:, 0].numpy() > 0
    auroc = area_under_roc(pixel_counts(found[:, 0].numpy(), masks)).item()
    assert auroc == pytest.approx(table[f"f64.out.pixel_auroc.{mode}"].item(), abs=1e-6)


def source(place: int, size: int, target: int) -> tuple[int, int, float]:
    """The two neighbours of an enlarged pixel, and the share of the second."""
    centre = max((place + 0.5) * size / target - 0.5, 0.0)
    low = min(int(centre), size - 1)
    return low, min(low + 1, size - 1), centre - low


def enlarged(plane: list[list[float]], rows: int, columns: int) -> list[list[float]]:
    """Bilinear, align_corners False, one pixel after the other."""
    result = []
    for row in range(rows):
        top, bottom, down = source(row, len(plane), rows)
        line = []
        for column in range(columns):
            left, right, across = source(column, len(plane[0]), columns)
            upper = plane[top][left] * (1 - across) + plane[top][right] * across
            lower = plane[bottom][left] * (1 - across) + plane[bottom][right] * across
            line.append(upper * (1 - down) + lower * down)
        result.append(line)
    return result


def test_upsample_equals_a_plain_loop():
    maps = torch.rand(2, 2, 3, 4)
    found = upsample(maps, (8, 7))
    for image in range(2):
        for channel in range(2):
            expected = torch.tensor(enlarged(maps[image, channel].tolist(), 8, 7))
            torch.testing.assert_close(found[image, channel], expected, atol=1e-6, rtol=0)
    assert upsample(maps.bfloat16(), (8, 8)).dtype == torch.float32


Plane = list[list[float]]


def over_maps(planes: list[Plane], rule) -> Plane:
    rows, columns = len(planes[0]), len(planes[0][0])
    return [[rule([p[r][c] for p in planes]) for c in range(columns)] for r in range(rows)]


def mean(values) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def over_pixels(plane: Plane, rule) -> float:
    return rule([value for row in plane for value in row])


def pooled(plane: Plane) -> Plane:
    return [
        [
            mean(plane[8 * r + y][8 * c + x] for y in range(8) for x in range(8))
            for c in range(len(plane[0]) // 8)
        ]
        for r in range(len(plane) // 8)
    ]


def pooled_maximum(planes: list[Plane]) -> Plane:
    coarse = over_maps([pooled(plane) for plane in planes], max)
    return enlarged(coarse, len(planes[0]), len(planes[0][0]))


SLOW_SCORES = {
    "mean.mean": lambda planes: mean(over_pixels(p, mean) for p in planes),
    "mean.max": lambda planes: max(over_pixels(p, mean) for p in planes),
    "max.mean": lambda planes: mean(over_pixels(p, max) for p in planes),
    "max.max": lambda planes: max(over_pixels(p, max) for p in planes),
    "pixelwise_mean_max": lambda planes: over_pixels(over_maps(planes, mean), max),
    "pixelwise_max_mean": lambda planes: over_pixels(over_maps(planes, max), mean),
    "downsample_8x8": lambda planes: over_pixels(pooled_maximum(planes), mean),
}
SLOW_MAPS = {
    "mean": lambda planes: over_maps(planes, mean),
    "max": lambda planes: over_maps(planes, max),
    "pooled": pooled_maximum,
}


@pytest.fixture(scope="module")
def maps() -> Tensor:
    return torch.rand(3, 2, 1, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", IMAGE_SCORES)
def test_image_scores_equal_a_plain_loop(maps, mode):
    expected = [SLOW_SCORES[mode](maps[:, image, 0].tolist()) for image in range(2)]
    assert IMAGE_SCORES[mode](maps).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rule", PIXEL_MAPS)
def test_pixel_maps_equal_a_plain_loop(maps, rule):
    expected = torch.tensor([SLOW_MAPS[rule](maps[:, image, 0].tolist()) for image in range(2)])
    torch.testing.assert_close(PIXEL_MAPS[rule](maps)[:, 0], expected, atol=1e-6, rtol=0)


def test_mean_filter_equals_a_plain_loop_and_one_pixel_changes_nothing():
    maps = torch.rand(2, 1, 6, 7)
    padded = torch.nn.functional.pad(maps, [1] * 4, mode="reflect")
    found = mean_filter(maps, 3)
    for row in range(6):
        for column in range(7):
            expected = padded[..., row : row + 3, column : column + 3].mean(dim=(-2, -1))
            torch.testing.assert_close(found[..., row, column], expected)
    assert torch.equal(mean_filter(maps, 1), maps)


def test_geometric_mean_keeps_what_a_product_loses():
    maps = torch.full((12, 1, 1, 2, 2), 1e-5)
    assert maps.prod(dim=0).max() == 0
    torch.testing.assert_close(geometric_mean(maps), maps[:1])
