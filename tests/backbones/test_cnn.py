from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from tiny_networks import make_network
from torch import nn

from scanomaly.backbones import build_backbone
from scanomaly.backbones.cnn import ConvBackbone, stages_of
from scanomaly.backbones.folding import fold_batch_norms
from scanomaly.backbones.loading import filled, find_source
from scanomaly.config.backbones import BackboneConfig
from scanomaly.errors import ConfigError

Saved = Callable[[str], Path]
CNNS = ["resnet18.a1_in1k", "tf_efficientnet_lite0.in1k"]
OFFLINE = BackboneConfig(name="tf_efficientnet_lite0")


def _build(saved: Saved, name: str) -> ConvBackbone:
    backbone = build_backbone(
        BackboneConfig(
            name=name, weights=str(saved(name)), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        )
    )
    assert isinstance(backbone, ConvBackbone)
    return backbone


@torch.no_grad()
@pytest.mark.parametrize("name", CNNS)
def test_features_are_those_of_timm(saved: Saved, name: str) -> None:
    backbone, reference = _build(saved, name), make_network(name)
    reference.to(memory_format=torch.channels_last)
    image = torch.rand(2, 3, 64, 48).contiguous(memory_format=torch.channels_last)
    theirs = reference.forward_intermediates(image, intermediates_only=True)
    exact = reference.double().forward_intermediates(image.double(), intermediates_only=True)
    features = backbone.extract(image, range(5))
    for found, wanted, rounded in zip(features.maps(), exact, theirs, strict=True):
        errors = [float((each - wanted).norm() / wanted.norm()) for each in (found, rounded)]
        assert errors[0] < 1.5 * errors[1]
        assert errors[1] < 1e-4, "the rounding of fp32"


@pytest.mark.parametrize("name", CNNS)
def test_folded_batch_norms_change_no_value(name: str) -> None:
    network = make_network(name).double().eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    image = torch.rand(2, 3, 64, 48, dtype=torch.double)
    before = network.forward_intermediates(image, intermediates_only=True)
    fold_batch_norms(network)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in network.modules())
    after = network.forward_intermediates(image, intermediates_only=True)
    for found, wanted in zip(after, before, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CNNS)
def test_strides_widths_and_empty_prefixes(saved: Saved, name: str) -> None:
    backbone = _build(saved, name)
    features = backbone.extract(torch.rand(1, 3, 64, 128), [4, 0, -3])
    assert features.grids == ((2, 4), (32, 64), (8, 16))
    assert [p.shape[2] for p in features.patches] == [backbone.width(b) for b in (4, 0, -3)]
    assert [tuple(p.shape) for p in features.prefix] == [
        (1, 0, backbone.width(b)) for b in (4, 0, 2)
    ]


@pytest.mark.parametrize("name", CNNS)
def test_any_side_gives_a_grid(saved: Saved, name: str) -> None:
    for height, width in ((33, 47), (1, 1), (250, 31)):
        features = _build(saved, name).extract(torch.rand(1, 3, height, width), [-1])
        assert features.grids == ((-(-height // 32), -(-width // 32)),)


def test_only_the_needed_stages_run(saved: Saved) -> None:
    backbone = _build(saved, "tf_efficientnet_lite0.in1k")
    ran: list[int] = []
    for index, stage in enumerate(backbone.stages):
        stage.register_forward_hook(lambda *_, index=index: ran.append(index))
    backbone.extract(torch.rand(1, 3, 32, 32), [2, 0])
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_resnet_is_cut_into_five_stages(name: str) -> None:
    with torch.device("meta"):
        stages, widths = stages_of(timm.create_model(name))
    assert len(stages) == len(widths) == 5


def test_a_patch_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a CNN and has no patches; leave patch out"):
        build_backbone(OFFLINE.model_copy(update={"patch": 8}))


def test_another_trunk_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of ResNet, EfficientNet"):
        stages_of(nn.Sequential())


def test_widths_for_each_stage() -> None:
    with pytest.raises(ValueError, match="a width for each of 1 stages"):
        ConvBackbone([nn.Identity()], [3, 4], (0.5,) * 3, (0.5,) * 3)


# The weights that really ship: the offline default from its registry package.


def test_the_offline_default_needs_no_network_and_scales_to_minus_one_to_one() -> None:
    backbone = build_backbone(OFFLINE)
    assert isinstance(backbone, ConvBackbone)
    assert backbone.widths == (16, 24, 40, 112, 320)
    assert backbone.mean.unique().item() == backbone.std.unique().item() == 0.5


def test_the_offline_default_is_a_trained_network() -> None:
    """Every running statistic has moved away from where training starts."""
    network = filled(find_source(OFFLINE))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 49
    for norm in norms:
        assert norm.running_var is not None
        assert norm.running_mean is not None
        assert norm.running_var.mean() > 0.01
        assert norm.running_mean.abs().max() > 0.001


def test_the_offline_weights_classify_photographs() -> None:
    """With the package's own classifier on top, in the same order of tensors as everything else.

    Were any tensor in another's place, a palace would not be a palace.
    """
    datasets = pytest.importorskip("sklearn.datasets")
    from scanomaly.backbones.loading import read_state
    from scanomaly.backbones.weights import locate

    state = read_state(locate("tf_efficientnet_lite0"))
    backbone = build_backbone(OFFLINE)
    head = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = list(head.state_dict())
    head.load_state_dict(dict(zip(names, state.values(), strict=True)))
    for photograph, expected in zip(datasets.load_sample_images().images, (698, 985), strict=True):
        pixels = torch.tensor(photograph).permute(2, 0, 1)[None].float() / 255
        image = nn.functional.interpolate(pixels, (256, 384), mode="bilinear", antialias=True)
        last = backbone.extract(image[..., 16:240, 80:304], [-1]).maps()[0]
        classes = head.forward_head(head.bn2(head.conv_head(last))).softmax(dim=1)[0]
        assert classes.argmax().item() == expected  # palace, daisy
        assert classes.max() > 0.2
