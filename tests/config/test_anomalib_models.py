"""Which backbone and blocks fit which of anomalib's models."""

import pytest

from scanomaly.config.backbones import BackboneConfig, ClipConfig
from scanomaly.config.run import Run
from scanomaly.errors import ConfigError
from scanomaly.presets import preset
from scanomaly.presets.baselines import BASELINE_PRESETS

NAME = "tf_efficientnet_lite0.in1k"


@pytest.mark.parametrize("name", BASELINE_PRESETS)
def test_a_run_is_read_back_as_it_was_saved(name: str, tmp_path):
    run = preset(name)
    run.save(tmp_path)
    assert Run.load(tmp_path) == run


def test_a_slash_in_the_name_means_a_clip():
    run = preset("patchcore-offline")
    clip = run.with_overrides(["config.backbone.name=tiny-clip/phantom"]).config
    assert isinstance(clip.backbone, ClipConfig)
    assert type(run.config.backbone) is BackboneConfig
    assert clip.features.side == 128


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("draem", f"config.backbone={{name: {NAME}}}", "draem has networks of its own"),
        ("draem", "config.blocks=[1]", "draem has networks of its own"),
        ("patchcore", "config.backbone=null", "patchcore reads a frozen network"),
        ("patchcore", "config.blocks=[]", "patchcore reads at least one block"),
        ("cfa", "config.blocks=[1, 2]", r"cfa reads 3 blocks .*got blocks=\(1, 2\)"),
        ("dinomaly", "config.blocks=[1, 2, 3]", "even number of blocks"),
        ("winclip-few", f"config.backbone={{name: {NAME}}}", "winclip asks a CLIP"),
        ("padim", "config.model.coreset_ratio=0.5", "coreset_ratio"),
        ("patchcore", "config.model.name=nonsense", "nonsense"),
    ],
)
def test_what_does_not_fit_is_said(name: str, option: str, message: str):
    with pytest.raises(ConfigError, match=message):
        preset(name).with_overrides([option])


def test_one_option_of_a_model_is_set():
    run = preset("patchcore-offline").with_overrides(["config.model.coreset_ratio=0.01"])
    assert run.config.model.coreset_ratio == 0.01
