"""Every distance against explicit loops; published values are in methods/test_perceptual."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scanomaly.nn.distances import FEATURE_DISTANCES, PIXEL_DISTANCES, local_residual, ms_ssim, ssim


def cosine_distance(a: list[float], b: list[float]) -> float:
    norms = (math.sqrt(sum(v * v for v in vector)) for vector in (a, b))
    lengths = math.prod(max(norm, 1e-8) for norm in norms)
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / lengths


def mean_of(function, a: list[float], b: list[float]) -> float:
    return sum(function(x - y) for x, y in zip(a, b, strict=True)) / len(a)


def square(x: float) -> float:
    return x * x


OVER_CHANNELS = {
    "cosine": cosine_distance,
    "l1": lambda a, b: mean_of(abs, a, b),
    "l2": lambda a, b: mean_of(square, a, b),
}
OVER_EVERYTHING = {
    "l2_total": lambda a, b: mean_of(square, a, b),
    "cosine_total": cosine_distance,
}


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 5, 3, 4, generator=generator)
    return a, b


@pytest.mark.parametrize("name", FEATURE_DISTANCES)
def test_feature_distances_equal_a_plain_loop(name, pair):
    a, b = pair
    found = FEATURE_DISTANCES[name](a, b)
    assert found.shape == (2, 1, 3, 4)
    for image in range(2):
        for row in range(3):
            for column in range(4):
                if name in OVER_CHANNELS:
                    vectors = (t[image, :, row, column].tolist() for t in pair)
                    expected = OVER_CHANNELS[name](*vectors)
                else:
                    expected = OVER_EVERYTHING[name](*(t[image].flatten().tolist() for t in pair))
                assert found[image, 0, row, column].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", [*FEATURE_DISTANCES, *PIXEL_DISTANCES])
def test_equal_inputs_have_no_distance_and_gradients_are_finite(name, pair):
    distance = {**FEATURE_DISTANCES, **PIXEL_DISTANCES}[name]
    image = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(distance(image, image), torch.zeros(2, 1, 8, 8), atol=1e-6, rtol=0)
    black = torch.zeros(1, 3, 8, 8, requires_grad=True)
    distance(torch.zeros(1, 3, 8, 8), black).sum().backward()
    assert black.grad is not None
    assert black.grad.isfinite().all()


@pytest.mark.parametrize("name", FEATURE_DISTANCES)
def test_half_precision_features_are_compared_in_fp32(name, pair):
    a, b = (t.bfloat16() for t in pair)
    found = FEATURE_DISTANCES[name](a, b)
    assert found.dtype == torch.float32
    assert torch.equal(found, FEATURE_DISTANCES[name](a.float(), b.float()))


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two windows, uniform weights, data range 1."""
    luminance = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    return luminance * (2 * covariance + 9e-4) / (a.var() + b.var() + 9e-4)


def test_ssim_equals_a_plain_loop_over_windows():
    torch.manual_seed(0)
    a = torch.rand(2, 3, 9, 10)
    b = (a + 0.2 * torch.randn(2, 3, 9, 10)).clamp(0, 1)
    border = ((0, 0), (0, 0), (3, 3), (3, 3))
    padded = [np.pad(t.double().numpy(), border, mode="reflect") for t in (a, b)]
    expected = np.zeros((2, 1, 9, 10))
    for image, row, column in np.ndindex(2, 9, 10):
        windows = [p[image, :, row : row + 7, column : column + 7] for p in padded]
        expected[image, 0, row, column] = 1 - np.mean(
            [similarity(windows[0][channel], windows[1][channel]) for channel in range(3)]
        )
    torch.testing.assert_close(ssim(a, b).double(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_pixel_distances_are_the_means_over_colours():
    torch.manual_seed(0)
    a, b = torch.randn(2, 2, 3, 8, 8)
    torch.testing.assert_close(PIXEL_DISTANCES["mae"](a, b)[:, 0], (a - b).abs().mean(1))
    torch.testing.assert_close(PIXEL_DISTANCES["mse"](a, b)[:, 0], ((a - b) ** 2).mean(1))
    cosine = 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    torch.testing.assert_close(PIXEL_DISTANCES["colour_cosine"](a, b)[:, 0], cosine)


def structure(a: Tensor, b: Tensor) -> Tensor:
    """SSIM's second factor of one-channel images, one window after the other."""
    size = tuple(a.shape[-2:])
    first, second = (np.pad(t[0, 0].double().numpy(), 3, mode="reflect") for t in (a, b))
    found = np.zeros(size)
    for row, column in np.ndindex(*size):
        x, y = (t[row : row + 7, column : column + 7] for t in (first, second))
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        found[row, column] = (2 * covariance + 9e-4) / (x.var() + y.var() + 9e-4)
    return torch.tensor(found)[None, None]


def test_multi_scale_ssim_is_the_weighted_product_of_its_scales():
    torch.manual_seed(0)
    a = torch.rand(1, 1, 14, 14)  # the window fits twice: two scales
    b = (a + 0.05 * torch.randn_like(a)).clamp(0, 1)
    coarse = 1 - ssim(*(torch.nn.functional.avg_pool2d(t, 2) for t in (a, b)))
    enlarged = torch.nn.functional.interpolate(coarse, size=(14, 14), mode="bilinear")
    first, second = 0.0448 / (0.0448 + 0.2856), 0.2856 / (0.0448 + 0.2856)
    expected = 1 - structure(a, b) ** first * enlarged.double() ** second
    torch.testing.assert_close(ms_ssim(a, b).double(), expected, atol=1e-5, rtol=0)


def test_multi_scale_ssim_of_an_image_for_one_scale_is_ssim():
    a = torch.rand(1, 1, 13, 13)
    b = (a + 0.05 * torch.randn_like(a)).clamp(0, 1)
    torch.testing.assert_close(ms_ssim(a, b), ssim(a, b))


def test_local_residual_equals_a_plain_loop():
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 1, 9, 10)
    near = np.pad((a - b)[0, 0].double().numpy(), 1, mode="reflect")
    wide = np.pad(a[0, 0].double().numpy(), 3, mode="reflect")
    expected = np.zeros((9, 10))
    for row, column in np.ndindex(9, 10):
        difference = abs(near[row : row + 3, column : column + 3].mean())
        expected[row, column] = difference / (wide[row : row + 7, column : column + 7].std() + 0.5)
    found = local_residual(a, b)[0, 0].double()
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_same_change_counts_more_in_flat_tissue_than_on_an_edge():
    flat, edge = torch.full((1, 1, 16, 16), 0.5), torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 4.0  # of normalised intensities
    changes = [local_residual(image, image + 0.1)[0, 0, 8, 8] for image in (flat, edge)]
    assert changes[0] > 3 * changes[1]
