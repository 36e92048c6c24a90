"""The papers' experiments: that each is what its name and source say."""

import pytest

from scanomaly.backbones.weights import INVENTORY
from scanomaly.config.base import Frozen
from scanomaly.config.qfae import AutoencoderConfig, QFAEConfig
from scanomaly.config.run import CONFIGS, Run, backbone_names
from scanomaly.errors import ConfigError
from scanomaly.presets import PRESETS, VQA_PRESETS, preset, presets_by_weight, vqa_preset
from scanomaly.presets.qfae import ABLATION_ROWS, ENCODER_ROWS

DINOV2 = "vit_large_patch14_reg4_dinov2.lvd142m"
DINO = "vit_base_patch8_224.dino"
MAE = "vit_large_patch16_224.mae"

EVALUATION = {
    "qfae-brain": ((16, 32, 56), "max.mean"),
    "qfae-resc": ((16, 32, 56), "max.mean"),
    "qfae-chest": ((16, 32, 56), "mean.max"),
    "qfae-liver": ((8, 16), "max.mean"),
}
"""Preset -> patch sizes, and image score as `<over pixels>.<over blocks>` (spec section 4)."""

ENCODERS = {
    "dino": [DINO],
    "openclip": ["vit_large_patch14_clip_224.laion2b"],
    "mae": [MAE],
    "dinov2-no-registers": ["vit_large_patch14_dinov2.lvd142m"],
    "imagenet": ["vit_base_patch16_224.augreg_in1k"],
    "dinov2-dino-openclip": [DINOV2, DINO, "vit_large_patch14_clip_224.laion2b"],
    "dinov2-dino-openclip-base": [DINOV2, DINO, "vit_base_patch32_clip_224.openai"],
    "dinov2-dino-mae-base": [DINOV2, DINO, "vit_base_patch16_224.mae"],
    "dinov2-dino-mae": [DINOV2, DINO, MAE],
}

DIFFERENCES = {
    "mae-loss": {"loss.0.kind": "mae", "score.sources": ("mae",)},
    "mae-loss-perceptual-score": {"loss.0.kind": "mae", "score.image": "mean.mean"},
    "both-losses": {"loss.1.kind": "mae", "loss.1.weight": 1.0, "score.image": "mean.mean"},
    "mean-score": {"score.image": "mean.mean"},
    "layers-5-11": {"loss_views.blocks": (5, 11), "score_views.blocks": (5, 11)},
    "decoder-patch-16": {"decoder.patch": 16, "junction.queries": 196},
    "decoder-patch-32": {"decoder.patch": 32, "junction.queries": 49},
    "perceptual-16": {"loss_views.patches": (16,), "score_views.patches": (16,)},
    "perceptual-56": {"loss_views.patches": (56,), "score_views.patches": (56,)},
    "perceptual-16-32-56": {"loss_views.patches": (16, 32, 56)},
    "non-causal": {"junction.causal": False},
}
"""Ablation -> everything in its configuration that is not as in qfae-brain."""


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Every field of a configuration by its dotted path; tuples of plain values are one."""
    if isinstance(value, Frozen):
        pairs = [(name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, tuple) and any(isinstance(part, Frozen) for part in value):
        pairs = [(str(index), part) for index, part in enumerate(value)]
    else:
        return {path.removeprefix("."): value}
    found: dict[str, object] = {}
    for name, part in pairs:
        found |= leaves(part, f"{path}.{name}")
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_run_of_that_name_with_a_source(name):
    run = preset(name)
    assert isinstance(run, Run)
    assert run.preset == name
    assert run.source
    assert type(run.config) is CONFIGS[run.method]
    assert run.protocol == "honest"
    assert run == preset(name)


@pytest.mark.parametrize("name", PRESETS)
def test_the_weights_of_every_preset_are_in_the_inventory(name):
    needs_none = {"draem", "ganomaly", "draem-offline", "ganomaly-offline"}
    assert bool(backbone_names(preset(name))) == (name not in needs_none)
    assert set(backbone_names(preset(name))) <= INVENTORY.keys()


@pytest.mark.parametrize("name", EVALUATION)
def test_each_data_set_has_its_own_evaluation(name):
    patches, image_score = EVALUATION[name]
    config = preset(name).config
    assert isinstance(config, QFAEConfig)
    assert config.score_views.blocks == (11, 15, 19)
    assert config.score_views.patches == patches
    assert config.score_views.multiply == "views"
    assert (config.score.sources, config.score.image, config.score.pixel) == (
        ("perceptual",),
        image_score,
        "mean",
    )


@pytest.mark.parametrize("name", EVALUATION)
def test_data_sets_are_trained_alike(name):
    """Published: one architecture, one loss, one schedule; only the liver is preprocessed."""
    run, brain = preset(name), preset("qfae-brain")
    evaluation = {"score", "score_views"}
    assert run.config.model_dump(exclude=evaluation) == brain.config.model_dump(exclude=evaluation)
    assert (run.config.loss_views.blocks, run.config.loss_views.patches) == ((15, 19), (32, 56))
    assert run.fit == brain.fit
    assert run.data.augmentation == "qfae"
    assert run.data.preprocess == ("liver_roi" if name == "qfae-liver" else "none")


def test_published_training():
    fit = preset("qfae-brain").fit
    assert (fit.epochs, fit.batch_size, fit.learning_rate, fit.warm_up) == (300, 64, 8e-5, 0.15)
    assert (fit.weight_decay, fit.gradient_clip, fit.precision) == (0.0, None, "fp32")
    assert (fit.patience, fit.warm_start) == (None, None)


def test_published_architecture():
    config = preset("qfae-brain").config
    assert [encoder.backbone.name for encoder in config.encoders] == [DINOV2]
    assert config.encoders[0].blocks == (-2, -4)
    assert config.perceptual.backbone.name == MAE
    for backbone in (config.encoders[0].backbone, config.perceptual.backbone):
        assert (backbone.side, backbone.mean, backbone.std) == (224, (0.449,) * 3, (0.226,) * 3)
    junction, decoder = config.junction, config.decoder
    assert (junction.queries, junction.width, junction.heads) == (784, 768, 8)
    assert (junction.cross_head_width, junction.causal, junction.residual) == (64, True, False)
    assert (decoder.width, decoder.depth, decoder.heads, decoder.patch) == (768, 6, 12, 8)
    assert config.corruption.strength == 0


def test_two_encoders_are_those_of_table_11():
    config, brain = preset("qfae-brain-two-encoders").config, preset("qfae-brain").config
    assert [encoder.backbone.name for encoder in config.encoders] == [DINOV2, DINO]
    assert config.model_dump(exclude={"encoders"}) == brain.model_dump(exclude={"encoders"})


def test_every_row_of_the_ablations_is_checked_here():
    assert ABLATION_ROWS.keys() == DIFFERENCES.keys()
    assert ENCODER_ROWS.keys() == ENCODERS.keys()


@pytest.mark.parametrize("suffix", DIFFERENCES)
def test_an_ablation_differs_from_brain_as_named_and_nowhere_else(suffix):
    run, brain = preset(f"qfae-brain-{suffix}"), preset("qfae-brain")
    before, after = leaves(brain.config), leaves(run.config)
    different = {path: after[path] for path in after if after[path] != before.get(path)}
    expected = DIFFERENCES[suffix]
    assert {path: different.get(path) for path in expected} == expected
    assert different.keys() - expected.keys() == set()
    assert before.keys() - after.keys() == set()
    assert (run.fit, run.data) == (brain.fit, brain.data)


@pytest.mark.parametrize("suffix", ENCODERS)
def test_an_encoder_row_differs_from_brain_in_its_encoders(suffix):
    run, brain = preset(f"qfae-brain-encoder-{suffix}"), preset("qfae-brain")
    assert [encoder.backbone.name for encoder in run.config.encoders] == ENCODERS[suffix]
    assert {encoder.blocks for encoder in run.config.encoders} == {(-2, -4)}
    assert run.config.model_dump(exclude={"encoders"}) == brain.config.model_dump(
        exclude={"encoders"}
    )


def test_the_plain_autoencoder_shares_everything_but_the_junction():
    run, brain = preset("autoencoder-brain"), preset("qfae-brain")
    config = run.config
    assert isinstance(config, AutoencoderConfig)
    assert not hasattr(config, "junction")
    assert [encoder.backbone.name for encoder in config.encoders] == [DINOV2]
    assert [(term.kind, config.score.sources) for term in config.loss] == [("mae", ("mae",))]
    assert config.decoder.model_copy(update={"patch": 8}) == brain.config.decoder
    assert config.grid**2 == 256, "one patch of the decoder for each of DINOv2's"
    assert (run.fit, run.data) == (brain.fit, brain.data)


def test_the_offline_preset_starts_warm_and_is_otherwise_its_own_recipe():
    warm, cold = preset("qfae-offline"), preset("qfae-offline-from-scratch")
    assert warm.fit.warm_start == "qfae-offline"
    assert cold.fit.warm_start is None
    assert warm.config == cold.config
    assert backbone_names(warm) == ["tf_efficientnet_lite0.in1k"]


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no preset 'qfae'; there are qfae-brain, qfae-resc, "):
        preset("qfae")


def test_presets_by_weight_is_the_inverse():
    users = presets_by_weight()
    lite = users["tf_efficientnet_lite0.in1k"]
    assert {"qfae-offline", "qfae-offline-from-scratch", "kqf-offline"} <= set(lite)
    assert users[DINO][:2] == ["qfae-brain-two-encoders", "qfae-brain-encoder-dino"]
    pairs = {(weight, name) for weight, names in users.items() for name in names}
    runs = [*map(preset, PRESETS), *map(vqa_preset, VQA_PRESETS)]
    assert pairs == {(weight, run.preset) for run in runs for weight in backbone_names(run)}
