import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from tiny_networks import TINY, make_network
from torch import Tensor

from scanomaly.backbones import Backbone, build_backbone, build_views
from scanomaly.backbones.vit import VisionTransformerBackbone
from scanomaly.config.backbones import BackboneConfig
from scanomaly.errors import ConfigError
from scanomaly.records import Features

Golden = Callable[[str], Path]
Saved = Callable[[str], Path]
VITS = [name for name in TINY if name.startswith(("vit", "deit"))]
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _build(saved: Saved, name: str, **fields: object) -> VisionTransformerBackbone:
    config = BackboneConfig.model_validate(
        {"name": name, "weights": str(saved(name)), "mean": PLAIN[0], "std": PLAIN[1], **fields}
    )
    backbone = build_backbone(config)
    assert isinstance(backbone, VisionTransformerBackbone)
    return backbone


def _tokens(features: Features) -> list[Tensor]:
    return [torch.cat(pair, dim=1) for pair in zip(features.prefix, features.patches, strict=True)]


def _last(backbone: Backbone, image: Tensor) -> Tensor:
    return backbone.extract(image, [-1]).patches[0]


def test_encoder_matches_the_published_one(golden: Golden) -> None:
    table = load_file(golden("qfae_encoder.safetensors"))
    network = timm.models.VisionTransformer(
        img_size=28, patch_size=14, embed_dim=32, depth=5, num_heads=4, mlp_ratio=2.0,
        num_classes=0, reg_tokens=4, no_embed_class=True, init_values=1e-5,
    )  # fmt: skip
    start = "w.model."
    network.load_state_dict(
        {k.removeprefix(start): v for k, v in table.items() if k.startswith(start)}
    )
    backbone = VisionTransformerBackbone(network, *PLAIN)

    context = torch.cat(_tokens(backbone.extract(table["in.image"], [-2, -4])), dim=1)
    weight, bias = table["w.final_projection.weight"], table["w.final_projection.bias"]
    projected = context @ weight.T + bias
    torch.testing.assert_close(projected, table["out.features"], rtol=0, atol=1e-5)

    last, middle = (backbone.extract(table["in.image"], [block]) for block in (4, 2))
    torch.testing.assert_close(last.maps()[0], table["out.block4_map"], rtol=0, atol=1e-5)
    torch.testing.assert_close(last.prefix[0], table["out.block4_prefix"], rtol=0, atol=1e-5)
    torch.testing.assert_close(middle.maps()[0], table["out.block2_map"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VITS)
def test_features_are_those_of_timm(saved: Saved, name: str) -> None:
    backbone, reference = _build(saved, name), make_network(name)
    image = torch.rand(2, 3, backbone.side, backbone.side)
    _, expected = reference.forward_intermediates(
        image, indices=[1, 2], return_prefix_tokens=True, norm=False, output_fmt="NLC"
    )
    features = backbone.extract(image, [2, 1])
    for index, (patches, prefix) in enumerate(reversed(expected)):
        torch.testing.assert_close(features.patches[index], patches, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(features.prefix[index], prefix, rtol=1e-6, atol=1e-6)


def test_only_the_needed_blocks_run(saved: Saved) -> None:
    backbone = _build(saved, "vit_base_patch16_224.mae")
    ran: list[int] = []
    for index, block in enumerate(backbone.network.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    backbone.extract(torch.rand(1, 3, 32, 32), [-3, 0])
    assert ran == [0, 1]


def test_order_and_repeats_of_blocks_are_kept(saved: Saved) -> None:
    backbone, image = _build(saved, "vit_base_patch16_224.mae"), torch.rand(1, 3, 32, 32)
    features = backbone.extract(image, [-2, -4, -2])
    late, early = (backbone.extract(image, [block]).patches[0] for block in (2, 0))
    for found, expected in zip(features.patches, (late, early, late), strict=True):
        assert torch.equal(found, expected)
    assert features.grids == ((4, 4),) * 3


def test_no_blocks_give_no_features(saved: Saved) -> None:
    backbone = _build(saved, "vit_base_patch16_224.mae")
    assert backbone.extract(torch.rand(1, 3, 32, 32), []) == Features((), (), ())


@pytest.mark.parametrize(("patch", "side"), [(4, 32), (16, 32), (8, 64), (16, 64), (32, 32)])
def test_other_patches_and_sides_equal_timms_own_resampling(
    saved: Saved, patch: int, side: int
) -> None:
    name = "vit_base_patch16_224.mae"
    backbone = _build(saved, name, patch=patch, side=side)
    reference = make_network(name)
    reference.set_input_size(img_size=(side, side), patch_size=(patch, patch))
    image = torch.rand(1, 3, side, side)
    expected = reference.forward_intermediates(
        image, indices=[3], intermediates_only=True, output_fmt="NLC"
    )[0]
    assert backbone.grid == (side // patch, side // patch)
    torch.testing.assert_close(
        backbone.extract(image, [3]).patches[0], expected, rtol=1e-3, atol=1e-3
    )


def test_views_share_their_blocks_and_come_from_the_weights_own_sizes(saved: Saved) -> None:
    name = "vit_base_patch16_224.mae"
    config = BackboneConfig(name=name, weights=str(saved(name)), side=32)
    views = build_views(config, (16, 4, 8))
    assert [view.grid for view in views] == [(2, 2), (8, 8), (4, 4)]
    assert len({id(view.network.blocks) for view in views}) == 1
    image = torch.rand(1, 3, 32, 32)
    for view, patch in zip(views, (16, 4, 8), strict=True):
        alone = build_backbone(config.model_copy(update={"patch": patch}))
        assert torch.equal(
            view.extract(image, [-1]).patches[0], alone.extract(image, [-1]).patches[0]
        )
        assert view.fingerprint() == alone.fingerprint()


def test_views_cast_together_and_back(saved: Saved) -> None:
    name = "vit_base_patch16_224.mae"
    views = build_views(BackboneConfig(name=name, weights=str(saved(name)), side=32), (16, 4))
    image = torch.rand(1, 3, 32, 32)
    exact = [_last(view, image) for view in views]
    for view in views:
        view.cast(torch.bfloat16)
    another = views[0].resampled(patch=4)
    assert another.precision == torch.bfloat16
    assert torch.equal(_last(another, image), _last(views[1], image))
    assert another.fingerprint() == views[1].fingerprint()
    for view in views:
        view.cast(torch.float32)
    for view, expected in zip(views, exact, strict=True):
        assert torch.equal(_last(view, image), expected)


def test_a_side_that_is_no_multiple_names_those_that_fit(saved: Saved) -> None:
    with pytest.raises(ValueError, match=r"side 30 .* patch size 8; resize to 24 or 32"):
        _build(saved, "vit_base_patch16_224.mae", side=30)
    with pytest.raises(ValueError, match="resize to 8"):
        _build(saved, "vit_base_patch16_224.mae", side=5)


@pytest.mark.parametrize(
    ("height", "width", "remedy"),
    [
        (33, 33, "resize to 32x32"),
        (64, 64, "or build the backbone with side 64"),
        (32, 40, "32x32"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(
    saved: Saved, height: int, width: int, remedy: str
) -> None:
    backbone = _build(saved, "vit_base_patch16_224.mae")
    with pytest.raises(
        ValueError, match=f"{height}x{width} does not fit 4x4 patches of 8.*{remedy}"
    ):
        backbone.extract(torch.rand(1, 3, height, width), [0])


def test_what_is_no_plain_transformer_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a timm VisionTransformer, got ResNet"):
        VisionTransformerBackbone(make_network("resnet18.a1_in1k"), *PLAIN)


@pytest.mark.slow
def test_full_size_dinov2_with_registers() -> None:
    """Parameter count, position table and shapes of QFAE's encoder (specification, 3.1)."""
    config = BackboneConfig(
        name="vit_large_patch14_reg4_dinov2.lvd142m", side=224, weights="random"
    )
    backbone = build_backbone(config)
    assert isinstance(backbone, VisionTransformerBackbone)
    frozen_in_checkpoint = 356_122_112 - 52_289_024 - 784 * 768
    assert sum(parameter.numel() for parameter in backbone.parameters()) == frozen_in_checkpoint
    assert backbone.network.pos_embed.shape == (1, 256, 1024)
    with torch.no_grad():
        features = backbone.extract(torch.rand(1, 3, 224, 224), [-2, -4])
    assert [tuple(tokens.shape) for tokens in _tokens(features)] == [(1, 261, 1024)] * 2
    assert features.grids == ((16, 16),) * 2
    assert all(math.isfinite(tokens.sum()) for tokens in features.patches)
