"""Against scipy, whose filter the published code runs."""

import pytest
import torch
from scipy.ndimage import gaussian_filter as by_scipy

from scanomaly.nn.gaussian import gaussian_filter


@pytest.mark.parametrize("sigma", [0.7, 4.0, 8.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (20, 20), (240, 240)])
def test_equals_scipys_filter_even_where_the_kernel_is_wider_than_the_map(shape, sigma):
    maps = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    expected = by_scipy(maps.double().numpy(), sigma, mode="reflect", truncate=4.0, axes=(-2, -1))
    found = gaussian_filter(maps, sigma)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=0, atol=1e-6)


def test_sigma_zero_leaves_maps_alone():
    maps = torch.rand(2, 1, 5, 5)
    assert torch.equal(gaussian_filter(maps, 0), maps)


def test_stays_exact_under_autocast():
    maps = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = gaussian_filter(maps, 2.0)
    assert torch.equal(found, gaussian_filter(maps, 2.0))
