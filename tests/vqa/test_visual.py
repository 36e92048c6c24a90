"""Trainable encoders: tokens, sides, weights by name, freezing, and a rebuild without weights."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_answerer import CNN, SIDE, VISUAL, VIT
from torch import nn

from scanomaly.config.vqa import VisualConfig
from scanomaly.errors import ConfigError, WeightsError
from scanomaly.nn.positions import sincos_table
from scanomaly.vqa.visual import CnnEncoder, VisualEncoder, build_encoder, without_weights
from tiny_clip import save_clip


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def clip_folder(folder: Path) -> VisualConfig:
    save_clip(folder)
    return VisualConfig(kind="clip", name="tiny-clip/test", weights=str(folder))


def test_a_vit_gives_its_final_tokens(image):
    encoder = build_encoder(VISUAL["vit"]).eval()
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT).eval()
    network.load_state_dict(encoder.network.state_dict())
    found = encoder(image)
    assert found.shape == (2, 5, 16)
    assert (encoder.tokens, encoder.width) == (5, 16)
    torch.testing.assert_close(found, network.forward_features(image))


def test_a_resnet_gives_the_positions_of_layer3_behind_their_mean(image):
    encoder = build_encoder(VISUAL["resnet"]).eval()
    network = timm.create_model("resnet18", num_classes=0, **CNN).eval()
    loaded = network.load_state_dict(encoder.network.state_dict(), strict=False)
    assert loaded.unexpected_keys == [], "torchvision's names"
    assert {key.split(".")[0] for key in loaded.missing_keys} == {"layer4"}
    larger = nn.functional.interpolate(image, (48, 48), mode="bilinear", align_corners=True)
    third = network.forward_intermediates(larger, intermediates_only=True)[3]  # (B, D, h, w)
    found = encoder(image)
    assert found.shape == (2, 1 + third.shape[2] * third.shape[3], 20)
    assert encoder.tokens == found.shape[1]
    torch.testing.assert_close(found[:, 1:], third.flatten(2).transpose(1, 2))
    torch.testing.assert_close(found[:, 0], third.mean(dim=(2, 3)))


def test_positions_tell_the_tokens_of_a_cnn_apart(image):
    plain = build_encoder(VISUAL["resnet"]).eval()
    placed = build_encoder(VISUAL["resnet"].model_copy(update={"positions": True})).eval()
    assert placed.state_dict().keys() == plain.state_dict().keys(), "nothing to train or save"
    table = sincos_table(20, 3, 3)
    found = placed(image) - plain(image)
    torch.testing.assert_close(found[:, 1:], table.expand(2, -1, -1))
    torch.testing.assert_close(found[:, 0], table.mean(dim=0).expand(2, -1))


@pytest.mark.parametrize("side", [33, 47, 64])
def test_a_cnn_knows_its_tokens_beforehand(side):
    config = VISUAL["resnet"].model_copy(update={"upsample": None, "side": side, "stage": 2})
    encoder = build_encoder(config)
    assert encoder(torch.zeros(1, 3, side, side)).shape == (1, encoder.tokens, encoder.width)


def test_an_efficientnet_keeps_its_blocks_together():
    config = VisualConfig(name="tf_efficientnet_lite0", kind="cnn", weights="random", stage=2)
    encoder = build_encoder(config)
    assert encoder.tokens is None, "the side is not known"
    assert list(dict(encoder.network.named_children())) == ["conv_stem", "bn1", "blocks"]
    assert encoder.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1 + 8 * 8, 40)


def test_a_clip_gives_the_normed_tokens_of_its_image_tower(image, tmp_path):
    encoder = build_encoder(clip_folder(tmp_path)).eval()
    found = encoder(image)
    assert found.shape == (2, 17, 16)
    assert (encoder.tokens, encoder.width) == (17, 16)
    network = encoder.network
    tokens = network.ln_post(network.transformer(network._embeds(image)))
    torch.testing.assert_close(found, tokens)


def test_other_sides(tmp_path):
    larger = torch.zeros(1, 3, 48, 48)
    vit = build_encoder(VISUAL["vit"].model_copy(update={"side": 48}))
    assert vit(larger).shape == (1, 10, 16)
    assert vit.tokens == 10
    config = clip_folder(tmp_path)
    clip = build_encoder(config.model_copy(update={"side": 48}))
    assert clip(larger).shape == (1, 37, 16)
    assert clip.tokens == 37
    with pytest.raises(ConfigError, match=r"visual\.side 30 is not a multiple of the patch size 8"):
        build_encoder(config.model_copy(update={"side": 30}))


def kinds(folder: Path) -> list[VisualEncoder]:
    return [build_encoder(config) for config in (*VISUAL.values(), clip_folder(folder))]


def test_every_value_trains(image, tmp_path):
    for encoder in kinds(tmp_path):
        encoder.train()(image).square().sum().backward()
        idle = [name for name, value in encoder.named_parameters() if value.grad is None]
        assert idle == []


def test_a_frozen_encoder_stays_as_it_is(image, tmp_path):
    for config in (*VISUAL.values(), clip_folder(tmp_path)):
        learning = build_encoder(config).eval()
        encoder = build_encoder(config.model_copy(update={"frozen": True}))
        torch.testing.assert_close(encoder(image), learning(image))
        assert not any(isinstance(each, nn.BatchNorm2d) for each in encoder.modules())
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        found = encoder.train()(image)
        assert not found.requires_grad
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        for name, value in encoder.state_dict().items():
            torch.testing.assert_close(value, before[name], msg=name)


def test_weights_come_by_name_and_sizes_are_remembered(image, tmp_path, monkeypatch):
    name = "vit_tiny_patch16_224.augreg_in21k"
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT).eval()
    folder = tmp_path / name
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    sizes = str(VIT).replace("'", '"')
    (folder / "config.json").write_text(
        f'{{"architecture": "vit_tiny_patch16_224", "model_args": {sizes}}}'
    )
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path))
    config = VisualConfig(name=name, side=SIDE)
    encoder = build_encoder(config).eval()
    torch.testing.assert_close(encoder(image), network.forward_features(image))
    monkeypatch.delenv("SCANOMALY_WEIGHTS")
    bare = build_encoder(without_weights(config, encoder)).eval()
    bare.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(bare(image), encoder(image))


def test_a_rebuild_without_weights(image, tmp_path):
    for encoder, config in zip(
        kinds(tmp_path), (*VISUAL.values(), clip_folder(tmp_path)), strict=True
    ):
        bare = build_encoder(without_weights(config, encoder)).eval()
        bare.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(bare(image), encoder.eval()(image))


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"scanomaly weights fetch resnet50\.tv2_in1k"):
        build_encoder(VisualConfig(name="resnet50.tv2_in1k", kind="cnn"))


def test_a_stage_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"has stages 0 to 4, got visual\.stage 5"):
        build_encoder(VISUAL["resnet"].model_copy(update={"stage": 5}))


def test_a_cnn_of_any_trunk_can_be_given(image):
    trunk = nn.Conv2d(3, 7, 16, stride=16)
    encoder = CnnEncoder(trunk, 7, 5)
    assert encoder(image).shape == (2, 5, 7)
