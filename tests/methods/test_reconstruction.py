"""Encoder, scaling, loss and reconstruction of QFAE and the plain autoencoder."""

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_names import ENCODER, renamed, renamed_detector
from golden_parity import assert_parity
from golden_parity import weights as golden_weights
from methods.tiny_detectors import (
    DINO,
    RESNET,
    SIDE,
    Images,
    batch_of,
    offline_qfae,
    plain_autoencoder,
    published_qfae,
    random_images,
    vit,
)
from scanomaly.backbones import build_backbone
from scanomaly.backbones.base import Backbone
from scanomaly.backbones.vit import VisionTransformerBackbone
from scanomaly.checkpoint import fill
from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.qfae import DecoderConfig, QFAEConfig
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.maps import IMAGE_SCORES, PIXEL_MAPS
from scanomaly.methods import QFAE, Autoencoder, reconstruction
from scanomaly.methods.token_encoder import LEAST_SPREAD, TokenEncoder
from scanomaly.records import Features

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
TRAINABLE_VALUES = 52_289_024
"""Of the published configuration (specification, section 6)."""


def test_published_encoder_features(golden):
    table = load_file(golden("qfae_encoder.safetensors"))
    network = timm.models.VisionTransformer(
        img_size=28, patch_size=14, embed_dim=32, depth=5, num_heads=4, mlp_ratio=2.0,
        num_classes=0, reg_tokens=4, no_embed_class=True, init_values=1e-5,
    )  # fmt: skip
    network.load_state_dict(golden_weights(table, "w.model."))
    encoder = TokenEncoder(VisionTransformerBackbone(network, *PLAIN), [-2, -4], 20, side=28)
    projection = renamed(golden_weights(table), ENCODER)
    assert encoder.load_state_dict(projection, strict=False).unexpected_keys == []
    assert_parity(encoder(encoder.tokens(table["in.image"])), table["out.features"])


class Stub(Backbone):
    """Tokens of a ViT-L's width, without a ViT-L."""

    def __init__(self, patches: int, prefix: int) -> None:
        super().__init__(*PLAIN)
        self.patches, self.prefix = patches, prefix

    @classmethod
    def build(cls, config):
        raise NotImplementedError

    @property
    def depth(self):
        return 24

    def width(self, block):
        return 1024

    def extract(self, image, blocks, *, after_block=None):
        shapes = (self.patches**2, self.prefix)
        patches, prefix = (
            tuple(torch.zeros(image.shape[0], count, 1024) for _ in blocks) for count in shapes
        )
        return Features(patches, prefix, ((self.patches, self.patches),) * len(blocks))


@pytest.fixture
def published(monkeypatch) -> QFAE:
    """The published configuration as `build` makes it, of sizes without values."""
    monkeypatch.setattr(reconstruction, "build_backbone", lambda config: Stub(16, 5))
    monkeypatch.setattr(
        reconstruction, "build_views", lambda config, patches: [Stub(7, 1) for _ in patches]
    )
    with torch.device("meta"):
        return QFAE.build(QFAEConfig())


def test_published_number_of_trainable_values(published):
    assert sum(p.numel() for p in published.parameters() if p.requires_grad) == TRAINABLE_VALUES


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint, frozen encoder left out (section 9)."""
    linear = {
        "encoders.0.final_projection": (768, 1024),
        "junction.blocks.0.attn.Wqkv": (960, 768),
        "junction.blocks.0.attn.out_proj": (768, 768),
        "junction.blocks.0.projection.1": (3072, 768),
        "junction.blocks.0.projection.3": (768, 3072),
        "decoder.decoder_embed": (768, 768),
        "decoder.decoder_prediction": (192, 768),
    }
    norms = [
        "junction.blocks.0.cross_attn.norm",
        "junction.blocks.0.cross_attn.to_out.1",
        "junction.blocks.0.projection.0",
        "decoder.decoder_norm",
    ]
    for index in range(6):
        block = f"decoder.decoder_blocks.{index}"
        linear |= {
            f"{block}.attn.qkv": (2304, 768),
            f"{block}.attn.proj": (768, 768),
            f"{block}.mlp.fc1": (3072, 768),
            f"{block}.mlp.fc2": (768, 3072),
        }
        norms += [f"{block}.norm1", f"{block}.norm2"]
    return {
        "junction.queries": (1, 784, 768),
        "junction.blocks.0.cross_attn.null_kv": (2, 64),
        "junction.blocks.0.cross_attn.to_q.weight": (512, 768),
        "junction.blocks.0.cross_attn.to_kv.weight": (1024, 768),
        "junction.blocks.0.cross_attn.to_out.0.weight": (768, 512),
        "decoder.cls_token": (1, 1, 768),
        "decoder.reg_tokens": (1, 4, 768),
        "decoder.decoder_pos_embed": (1, 784, 768),
        **{f"{name}.weight": shape for name, shape in linear.items()},
        **{f"{name}.bias": shape[:1] for name, shape in linear.items()},
        **{f"{name}.{part}": (768,) for name in norms for part in ("weight", "bias")},
    }


def test_a_published_checkpoint_is_our_fitted_state(published):
    checkpoint = {
        name: torch.empty(shape, device="meta") for name, shape in published_shapes().items()
    }
    checkpoint["encoders.0.model.cls_token"] = torch.empty(1, 1, 1024, device="meta")
    found = {name: t.shape for name, t in renamed_detector(checkpoint).items()}
    expected = {name: t.shape for name, t in published.fitted_state().items()}
    assert found == expected


def pixel_loop(maps: tuple[Tensor, ...], rows: int) -> Tensor:
    """Tokens (B, rows * rows, D) of maps folded onto `rows`, one number after the other."""
    tokens = []
    for row in range(rows):
        for column in range(rows):
            values = []
            for stage in maps:
                fold = stage.shape[2] // rows
                for channel in range(stage.shape[1]):
                    for y in range(fold):
                        for x in range(fold):
                            values.append(stage[:, channel, row * fold + y, column * fold + x])
            tokens.append(torch.stack(values, dim=1))
    return torch.stack(tokens, dim=1)


def test_merged_channels_fold_fine_stages_onto_the_coarsest_grid(weights):
    backbone = build_backbone(BackboneConfig(name=RESNET, weights=str(weights(RESNET))))
    encoder = TokenEncoder(backbone, (1, 2), 24, side=SIDE, merge="channels", positions=True)
    image = random_images(2)
    maps = backbone.extract(image, (1, 2)).maps()
    assert [tuple(m.shape[2:]) for m in maps] == [(8, 8), (4, 4)]
    assert torch.equal(encoder.tokens(image), pixel_loop(maps, rows=4))


def test_positions_need_one_square_grid(weights):
    backbone = build_backbone(vit(DINO, weights))
    with pytest.raises(ConfigError, match=r"one square grid .* got 17 tokens"):
        TokenEncoder(backbone, (-1,), 24, side=SIDE, positions=True)


def test_blocks_of_different_widths_cannot_be_joined_as_tokens(weights):
    backbone = build_backbone(BackboneConfig(name=RESNET, weights=str(weights(RESNET))))
    with pytest.raises(ConfigError, match=r"widths \[8, 16\] .* set merge: channels"):
        TokenEncoder(backbone, (1, 2), 24, side=SIDE)


@pytest.fixture
def offline(weights) -> QFAE:
    torch.manual_seed(0)
    return QFAE.build(offline_qfae(weights))


OPTIONS = FitOptions(epochs=1, batch_size=4, accelerator="cpu")


def test_fit_standardises_channels_and_keeps_the_scale(offline, weights, tmp_path):
    images = random_images(8)
    encoder = offline.encoders[0]
    offline.fit(Images(images), options=OPTIONS, run_dir=tmp_path)
    tokens = encoder.tokens(images)
    scaled = ((tokens - encoder.shift) * encoder.scale).flatten(0, 1)
    deviation = tokens.flatten(0, 1).std(dim=0)
    alive = deviation > 1.01 * LEAST_SPREAD * deviation.mean() + 1e-6
    assert alive.any()
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(len(alive)), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(dim=0)[alive], torch.ones(int(alive.sum())))
    state = offline.fitted_state()
    assert {"encoders.0.shift", "encoders.0.scale"} <= state.keys()
    assert not any(
        name.endswith("shift") for name in QFAE.build(published_qfae(weights)).state_dict()
    )


def test_a_warm_start_keeps_its_scale(offline, tmp_path):
    offline.encoders[0].fit_scale(random_images(8, seed=9))
    kept = offline.encoders[0].shift.clone()
    offline.fit(Images(random_images(8)), options=OPTIONS, run_dir=tmp_path)
    assert torch.equal(offline.encoders[0].shift, kept)


@pytest.mark.parametrize("config", [offline_qfae, published_qfae])
def test_loss_is_the_mean_over_all_criterias_values(config, weights):
    torch.manual_seed(0)
    detector = QFAE.build(config(weights)).eval()
    observation = detector.observe(random_images(2), detector.loss_views)
    image = detector.reconstruct(observation.context)
    features = detector.perceptual.features(image, detector.loss_views)
    maps = detector.perceptual.compare(observation.reference, features, detector.loss_views, SIDE)
    values = [plane.mean() for one_map in maps for plane in one_map]
    if len(detector.config.loss) == 2:  # MAE in the decoder's normalised space
        difference = (observation.image - image).abs() / detector.std
        values += [plane.mean() for plane in difference]
    torch.testing.assert_close(detector.loss(observation), sum(values) / len(values))


@pytest.mark.parametrize("config", [offline_qfae, published_qfae])
def test_prediction_follows_the_configured_rules(config, weights):
    torch.manual_seed(0)
    detector = QFAE.build(config(weights)).eval()
    observation = detector.observe(random_images(2), detector.score_views)
    image = detector.reconstruct(observation.context)
    features = detector.perceptual.features(image, detector.score_views)
    maps = detector.perceptual.compare(observation.reference, features, detector.score_views, SIDE)
    prediction = detector.predict(batch_of(random_images(2)))
    torch.testing.assert_close(prediction.score, IMAGE_SCORES["max.mean"](maps))
    torch.testing.assert_close(prediction.anomaly_map, PIXEL_MAPS["mean"](maps))
    torch.testing.assert_close(prediction.reconstruction, image.clamp(0, 1))
    assert len(maps) == {"vit": 3, "cnn": 1}["cnn" if config is offline_qfae else "vit"]


def test_a_mirrored_image_counts_as_much_as_the_image(weights):
    plain = offline_qfae(weights)
    mirrored = plain.model_copy(update={"score": plain.score.model_copy(update={"mirror": True})})
    torch.manual_seed(0)
    one, both = QFAE.build(plain), QFAE.build(mirrored)
    both.load_state_dict(one.state_dict())
    images = random_images(2)
    there, back = (one.predict(batch_of(image)) for image in (images, images.flip(-1)))
    found = both.predict(batch_of(images))
    torch.testing.assert_close(found.score, (there.score + back.score) / 2)
    expected = (there.anomaly_map + back.anomaly_map.flip(-1)) / 2
    torch.testing.assert_close(found.anomaly_map, expected)
    torch.testing.assert_close(found.reconstruction, there.reconstruction)
    assert (there.score - back.score).abs().max() > 1e-6


def relative(config: QFAEConfig) -> QFAEConfig:
    return config.model_copy(update={"score": config.score.model_copy(update={"relative": True})})


def test_a_warm_start_brings_no_expectation(offline, weights, tmp_path):
    detector = QFAE.build(relative(offline_qfae(weights)))
    fill(detector, offline.fitted_state(), tmp_path, leave=detector.always_fitted)
    state = detector.fitted_state()
    assert all(torch.equal(state[name], value) for name, value in offline.fitted_state().items())
    with pytest.raises(CheckpointError, match=r"missing \['expected_score"):
        fill(detector, offline.fitted_state(), tmp_path)


def test_a_relative_score_is_a_multiple_of_the_expected_one(weights, tmp_path):
    torch.manual_seed(0)
    detector = QFAE.build(relative(offline_qfae(weights)))
    detector.fit(Images(random_images(8)), options=OPTIONS, run_dir=tmp_path)
    found = detector.predict(batch_of(random_images(2)))
    expected = detector.expected_score(found.reconstruction)
    assert (expected != 1).all()
    detector.expected_score.reset()
    plain = detector.predict(batch_of(random_images(2)))
    torch.testing.assert_close(found.score, plain.score / expected)
    torch.testing.assert_close(found.anomaly_map, plain.anomaly_map / expected.view(2, 1, 1, 1))


def test_the_plain_autoencoder_draws_the_patches_of_the_tapped_block(weights):
    detector = Autoencoder.build(plain_autoencoder(weights)).eval()
    image = random_images(2)
    encoder = detector.encoders[0]
    patches = encoder.projection(encoder.backbone.extract(image, (-2,)).patches[0])
    expected = detector.decoder(patches) * detector.std + detector.mean
    found = detector.reconstruct(detector.observe(image, detector.score_views).context)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("patch", "drawn"), [(4, "8x8"), (16, "2x2")])
def test_the_autoencoder_draws_on_the_encoders_grid_alone(patch, drawn, weights):
    config = plain_autoencoder(weights)
    other = config.model_copy(
        update={"decoder": DecoderConfig(width=24, depth=1, heads=2, patch=patch)}
    )
    with pytest.raises(ConfigError, match=rf"draws {drawn} patches .* encoder sees 4x4; choose"):
        Autoencoder.build(other)


def test_local_start_needs_a_token_for_each_query(weights):
    config = published_qfae(weights)
    local = config.model_copy(
        update={"junction": config.junction.model_copy(update={"local_start": True})}
    )
    with pytest.raises(ConfigError, match=r"one context token per query, got 51 .* 16 queries"):
        QFAE.build(local)


def test_a_backbone_named_twice_is_built_once(offline):
    assert len(offline.frozen()) == 1
    assert offline.encoders[0].backbone is offline.perceptual.networks[str(SIDE)]
