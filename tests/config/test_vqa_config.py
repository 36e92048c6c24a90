"""The configuration of answerers: published defaults, what fits together, run.yaml."""

import pytest

from scanomaly.config.run import load_run
from scanomaly.config.vqa import FormerConfig, LanguageConfig, VqaConfig, VqaDataConfig, VqaRun
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.presets import preset, vqa_preset


@pytest.fixture
def run() -> VqaRun:
    return VqaRun(preset="mine", source="tests")


def test_defaults_are_the_published_training(run):
    fit = run.fit
    assert (fit.epochs, fit.batch_size, fit.patience, fit.seed) == (40, 48, 10, 42)
    assert (fit.optimiser, fit.learning_rate, fit.weight_decay) == ("adamw", 1.5e-5, 0.05)
    assert (fit.schedule, fit.warm_up, fit.precision) == ("warm_up_cosine", 0.4, "fp32")
    assert run.config.former == FormerConfig(layers=6, queries=32)
    assert (run.config.max_tokens, run.config.beams) == (100, 5)
    assert (run.data.resize, run.data.crop, run.data.jitter) == (256, 224, 0.5)


def test_a_run_comes_back_from_its_file(run, tmp_path):
    changed = run.with_overrides(["config.former=null", "data.exclude_unseen=true"])
    changed.save(tmp_path)
    assert VqaRun.load(tmp_path) == changed != run


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("config.former.heads=7", r"config\.former: width 768 is not a multiple of heads 7"),
        ("config.decoder.heads=7", r"config\.decoder: width 768 is not a multiple of heads 7"),
        ("config.former.queries=600", r"queries 600 are more than positions 512"),
        ("config.decoder.tokenizer=words", r"pretrained weights do not know; set weights: random"),
        ("config.slots=[image,map,blank]", r"config\.slots\.1: Input should be 'image'"),
        ("config.visual.side=256", r"config\.visual\.side 256 and data\.crop 224 are the same"),
        ("config.visual.patch=8", r"config\.visual\.patch: Input should be None"),
        ("data.crop=300", r"data\.crop 300 is larger than data\.resize 256"),
        ("fit.warm_start=qfae-offline", r"fit\.warm_start and fit\.cache_features are for detect"),
        ("fit.cache_features=true", r"fit\.warm_start and fit\.cache_features are for detectors"),
        ("config.colour=red", r"no field 'colour'; there are visual, former"),
    ],
)
def test_what_does_not_fit_together_is_named(run, assignment, message):
    with pytest.raises(ConfigError, match=message) as raised:
        run.with_overrides([assignment])
    assert "\n" not in str(raised.value)


def test_more_tokens_than_a_random_decoder_has_positions():
    with pytest.raises(ValueError, match="max_tokens 100 is more than half of the decoder's 199"):
        VqaConfig(decoder=LanguageConfig(weights="random", positions=199))
    VqaConfig(decoder=LanguageConfig(positions=199))  # pretrained ones bring theirs


def test_a_crop_of_the_whole_is_allowed():
    assert VqaDataConfig(resize=224, crop=224).crop == 224


def test_one_kind_of_run_is_not_the_other(run, tmp_path):
    run.save(tmp_path / "vqa")
    preset("qfae-brain").save(tmp_path / "detector")
    with pytest.raises(
        CheckpointError, match=r"expected the run of `scanomaly fit`, found one of `scanomaly vqa f"
    ):
        load_run(tmp_path / "vqa")
    with pytest.raises(
        CheckpointError, match=r"of `scanomaly vqa fit`, found one of `scanomaly fit`; use `scanoma"
    ):
        VqaRun.load(tmp_path / "detector")


def test_a_file_from_before_there_were_two_kinds_is_a_detectors(tmp_path):
    preset("qfae-brain").save(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(file.read_text().replace("kind: detector\n", ""))
    assert load_run(tmp_path) == preset("qfae-brain")
    with pytest.raises(CheckpointError, match="found one of `scanomaly fit`"):
        VqaRun.load(tmp_path)


def test_a_missing_run_names_its_own_verb(tmp_path):
    with pytest.raises(CheckpointError, match=r"found none; `scanomaly vqa fit` makes one"):
        VqaRun.load(tmp_path)


def test_presets_name_the_verb_that_takes_them():
    with pytest.raises(ConfigError, match="kqf-offline answers questions; fit it with `scanoma"):
        preset("kqf-offline")
    with pytest.raises(ConfigError, match="qfae-brain is a detector; fit it with `scanomaly fit`"):
        vqa_preset("qfae-brain")
    with pytest.raises(ConfigError, match="no preset 'kqf'; there are kqf-average-vit, "):
        vqa_preset("kqf")
