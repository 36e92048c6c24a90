"""What every backbone promises, whatever is inside."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scanomaly.backbones import FAMILIES, Backbone, build_backbone
from scanomaly.backbones.base import digest
from scanomaly.config.backbones import BackboneConfig
from scanomaly.errors import ConfigError

NAMES = [
    "vit_base_patch16_224.mae",
    "vit_base_patch14_reg4_dinov2.lvd142m",
    "resnet18.a1_in1k",
    "tf_efficientnet_lite0.in1k",
]
SIDES = {"vit_base_patch14_reg4_dinov2.lvd142m": 56}


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest, saved: Callable[[str], Path]) -> BackboneConfig:
    name = str(request.param)
    return BackboneConfig(name=name, weights=str(saved(name)))


@pytest.fixture
def backbone(config: BackboneConfig) -> Backbone:
    return build_backbone(config)


@pytest.fixture
def image(config: BackboneConfig) -> Tensor:
    side = SIDES.get(config.name, 32)
    return torch.rand(2, 3, side, side)


def _values(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in backbone.state_dict().items()}


def test_it_never_leaves_eval_mode(backbone: Backbone) -> None:
    holder = nn.Sequential(backbone).train()
    assert not any(module.training for module in holder[0].modules())


def test_gradients_reach_the_image_and_no_parameter(backbone: Backbone, image: Tensor) -> None:
    before = _values(backbone)
    image.requires_grad_()
    features = backbone.extract(image, [1, 2])
    sum(patches.square().sum() for patches in features.patches).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
    assert all(torch.equal(value, before[k]) for k, value in backbone.state_dict().items())


def test_no_graph_is_kept_when_nothing_needs_it(backbone: Backbone, image: Tensor) -> None:
    assert backbone.extract(image, [1]).patches[0].grad_fn is None


def test_a_hook_sees_each_block_and_what_it_returns_goes_on(
    backbone: Backbone, image: Tensor
) -> None:
    seen: list[int] = []
    scale = torch.tensor(1.0, requires_grad=True)

    def shrink(block: int, tokens: Tensor) -> Tensor:
        seen.append(block)
        return tokens * 0.5 * scale

    plain = backbone.extract(image, [0, 2])
    hooked = backbone.extract(image, [0, 2], after_block=shrink)
    assert seen == [0, 1, 2]
    assert torch.equal(plain.patches[0], hooked.patches[0])  # the block's own output
    assert not torch.allclose(plain.patches[1], hooked.patches[1])
    hooked.patches[1].sum().backward()
    assert scale.grad is not None
    assert scale.grad.abs() > 0


def test_a_hook_that_changes_nothing_changes_nothing(backbone: Backbone, image: Tensor) -> None:
    plain = backbone.extract(image, [-1])
    hooked = backbone.extract(image, [-1], after_block=lambda _, tokens: tokens)
    torch.testing.assert_close(hooked.patches[0], plain.patches[0], rtol=1e-5, atol=1e-5)


def test_a_block_that_does_not_exist_is_refused(backbone: Backbone, image: Tensor) -> None:
    depth = backbone.depth
    for block in (depth, -depth - 1):
        with pytest.raises(ValueError, match=f"block {block} does not exist: .* 0 to {depth - 1}"):
            backbone.extract(image, [0, block])
        with pytest.raises(ValueError, match="does not exist"):
            backbone.width(block)


def test_each_image_is_on_its_own(backbone: Backbone, image: Tensor) -> None:
    together = backbone.extract(image, [-1]).patches[0]
    alone = torch.cat([backbone.extract(one[None], [-1]).patches[0] for one in image])
    # relative to the largest value: another batch size chooses other convolution kernels
    assert (together - alone).abs().max() <= 1e-4 * alone.abs().max()


def test_normalisation_comes_with_the_weights_and_can_be_overridden(
    config: BackboneConfig, backbone: Backbone, image: Tensor
) -> None:
    assert backbone.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert backbone.std.flatten().tolist() == pytest.approx([0.2, 0.3, 0.4])
    plain = config.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    expected = build_backbone(plain).extract((image - backbone.mean) / backbone.std, [0])
    torch.testing.assert_close(backbone.extract(image, [0]).patches[0], expected.patches[0])


def test_bf16_weights_give_bf16_features_under_any_autocast(
    backbone: Backbone, image: Tensor
) -> None:
    exact = backbone.extract(image, [1]).patches[0]
    fingerprint = copy.deepcopy(backbone).fingerprint()
    assert backbone.cast(torch.bfloat16) is backbone
    rounded = backbone.extract(image, [1]).patches[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = backbone.extract(image, [1]).patches[0]
    assert rounded.dtype == inside.dtype == backbone.precision == torch.bfloat16
    assert torch.equal(rounded, inside)
    assert (rounded.float() - exact).norm() / exact.norm() < 0.03
    assert backbone.mean.dtype == torch.float32
    assert backbone.fingerprint() == fingerprint


def test_casting_back_restores_every_digit(backbone: Backbone, image: Tensor) -> None:
    exact = backbone.extract(image, [1]).patches[0]
    for precision in (torch.bfloat16, torch.float16, torch.float32):
        backbone.cast(precision)
    assert torch.equal(backbone.extract(image, [1]).patches[0], exact)


def test_casting_back_without_a_source_is_refused(backbone: Backbone) -> None:
    backbone.config = None
    backbone.cast(torch.bfloat16)
    with pytest.raises(ValueError, match=r"lost their digits; build the backbone again"):
        backbone.cast(torch.float32)


def test_fp32_once_asked_for_stays_fp32_under_autocast(backbone: Backbone, image: Tensor) -> None:
    exact = backbone.extract(image, [1]).patches[0]
    backbone.cast(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(backbone.extract(image, [1]).patches[0], exact)


def test_fingerprints_follow_the_values(config: BackboneConfig, backbone: Backbone) -> None:
    again = build_backbone(config)
    assert again.fingerprint() == backbone.fingerprint()
    assert len(again.fingerprint()) == 16
    changed = build_backbone(config.model_copy(update={"weights": "random"}))
    other = build_backbone(config.model_copy(update={"mean": (0.1,) * 3}))
    assert len({b.fingerprint() for b in (backbone, changed, other)}) == 3


def test_a_digest_covers_every_value_and_name() -> None:
    values = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    changed = {**values, "bias": torch.tensor([0.0, 1e-6])}
    renamed = {"weight": values["weight"], "bias_": values["bias"]}
    reshaped = {**values, "weight": torch.zeros(3, 2)}
    assert len({digest(each) for each in (values, changed, renamed, reshaped)}) == 4
    assert digest(dict(reversed(values.items()))) == digest(values)


def test_random_weights_are_the_same_each_time_and_leave_the_seed_alone() -> None:
    config = BackboneConfig(name="resnet18", weights="random")
    state = torch.random.get_rng_state()
    first, second = build_backbone(config), build_backbone(config)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("name", ["", "nonsense", "clip"])
def test_a_name_of_no_family_lists_the_families(name: str) -> None:
    config = BackboneConfig.model_construct(name=name, weights="random")
    with pytest.raises(ConfigError, match="no backbone is called") as caught:
        build_backbone(config)
    assert all(family in str(caught.value) for family in FAMILIES)


def test_a_name_that_timm_does_not_know_suggests_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"Similar names: .*resnet50"):
        build_backbone(BackboneConfig(name="resnet51", weights="random"))


@pytest.mark.parametrize(
    ("imports", "unwanted"),
    [
        (
            "scanomaly.backbones, scanomaly.backbones.weights, scanomaly.config.backbones",
            {"torch", "timm", "open_clip", "huggingface_hub"},
        ),
        ("scanomaly.backbones.vit, scanomaly.backbones.cnn", {"timm", "open_clip"}),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(imports: str, unwanted: set[str]) -> None:
    program = f"import sys, {imports}; assert not {unwanted} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", program], check=True)
