"""Difference maps, products and losses against the published ones and against plain loops."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_parity import assert_parity
from methods.tiny_detectors import DINO, MAE, QFAE_MEAN, SIDE, vit
from scanomaly.backbones import build_backbone, build_views
from scanomaly.maps import upsample
from scanomaly.methods.perceptual import COMBINATIONS, PerceptualModel, Views
from scanomaly.nn.distances import FEATURE_DISTANCES

LAYERS = (0, 2)
SETS = {"train": (7, 14), "eval": (4, 7, 14), "single": (7,)}
"""Published set -> its patch sizes."""
PUBLISHED = {
    "cosine": "cosine",
    "l1": "L1",
    "l2": "L2",
    "l2_total": "L2tot",
    "cosine_total": "cosinetot",
}


@pytest.fixture(scope="module")
def table(golden) -> dict[str, Tensor]:
    return load_file(golden("qfae_perceptual.safetensors"))


def features(table: dict[str, Tensor], kind: str, views: Views) -> list[Tensor]:
    return [table[f"in.p{patch}.layer{layer}.{kind}"] for patch, layer in views.positions]


def compared(table: dict[str, Tensor], name: str, views: Views) -> Tensor:
    model = PerceptualModel({}, FEATURE_DISTANCES[name])
    pair = (features(table, kind, views) for kind in ("ref", "hat"))
    return model.compare(*pair, views, 28)


def test_every_distance_has_published_values():
    assert PUBLISHED.keys() == FEATURE_DISTANCES.keys()


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("patch", SETS["eval"])
def test_published_distance_maps(table, name, patch):
    published = table[f"out.{PUBLISHED[name]}.map.p{patch}"]
    for layer, expected in zip(LAYERS, published, strict=True):
        pair = (table[f"in.p{patch}.layer{layer}.{kind}"] for kind in ("ref", "hat"))
        assert_parity(FEATURE_DISTANCES[name](*pair), expected)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("chosen", SETS)
def test_published_losses(table, name, chosen):
    """`ReconstructionDetector.loss` takes the same mean: see test_reconstruction."""
    start = f"out.{PUBLISHED[name]}.{chosen}"
    maps = compared(table, name, Views(LAYERS, SETS[chosen]))
    each = maps.mean(dim=(2, 3, 4))
    assert_parity(each, table[f"{start}.per_layer_per_image"])
    assert_parity(each.mean(), table[f"{start}.loss"])


@pytest.mark.parametrize("chosen", SETS)
def test_published_product_maps(table, chosen):
    maps = compared(table, "cosine", Views(LAYERS, SETS[chosen]))
    assert_parity(maps, table[f"out.cosine.{chosen}.product_map"])


def distances(table: dict[str, Tensor], patch: int, layer: int) -> Tensor:
    pair = (table[f"in.p{patch}.layer{layer}.{kind}"] for kind in ("ref", "hat"))
    return upsample(FEATURE_DISTANCES["cosine"](*pair), (28, 28))


def test_combinations_equal_a_plain_loop(table):
    patches = SETS["eval"]
    planes = {
        (patch, layer): distances(table, patch, layer) for patch in patches for layer in LAYERS
    }
    products = torch.zeros(2, 3, 1, 28, 28)
    everything = torch.zeros(1, 3, 1, 28, 28)
    for image in range(3):
        for row in range(28):
            for column in range(28):
                values = {key: plane[image, 0, row, column].item() for key, plane in planes.items()}
                for position, layer in enumerate(LAYERS):
                    product = math.prod(values[patch, layer] for patch in patches)
                    products[position, image, 0, row, column] = product
                geometric = math.prod(values.values()) ** (1 / len(values))
                everything[0, image, 0, row, column] = geometric
    expected = {
        "views": products,
        "views_and_blocks": everything,
        "none": torch.stack(list(planes.values())),
    }
    assert expected.keys() == COMBINATIONS.keys()
    for multiply, maps in expected.items():
        found = compared(table, "cosine", Views(LAYERS, patches, multiply))
        torch.testing.assert_close(found, maps, rtol=1e-4, atol=1e-6)


def test_a_zero_among_all_multiplied_maps_gives_zero_and_finite_gradients():
    maps = torch.rand(2, 3, 1, 1, 4, 4)
    maps[0, 0, 0, 0, 0, 0] = 0.0
    maps.requires_grad_(True)
    product = COMBINATIONS["views_and_blocks"](maps)
    product.sum().backward()
    assert product[0, 0, 0, 0, 0] < 0.02
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_products_stay_in_fp32_under_autocast(table):
    """Products of small numbers vanish in half precision."""
    views = Views(LAYERS, SETS["eval"])
    exact = compared(table, "cosine", views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compared(table, "cosine", views)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


def test_features_come_view_by_view_and_block_by_block(weights):
    config = vit(MAE, weights)
    networks = dict(zip((4, 16), build_views(config, (4, 16)), strict=True))
    views = Views((1, 3), (16, 4))
    image = torch.rand(2, 3, SIDE, SIDE)
    found = PerceptualModel(networks, FEATURE_DISTANCES["cosine"]).features(image, views)
    assert views.positions == ((16, 1), (16, 3), (4, 1), (4, 3))
    for maps, (patch, block) in zip(found, views.positions, strict=True):
        assert maps.shape == (2, 32, SIDE // patch, SIDE // patch)
        alone = networks[patch].extract(image, [block]).maps()[0]
        torch.testing.assert_close(maps, alone)


def test_gradients_flow_through_the_frozen_network_into_the_image(weights):
    network = build_backbone(vit(DINO, weights))
    model = PerceptualModel({8: network}, FEATURE_DISTANCES["cosine"])
    views = Views((1, 3), (8,))
    image = torch.rand(1, 3, SIDE, SIDE, requires_grad=True)
    reference = model.features(torch.rand(1, 3, SIDE, SIDE), views)
    model.compare(reference, model.features(image, views), views, SIDE).mean().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_networks_see_images_normalised_with_their_own_mean(weights):
    network = build_backbone(vit(DINO, weights))
    assert network.mean.flatten().tolist() == pytest.approx(QFAE_MEAN)
