"""MVFA's experiments: what each changes, and that nothing else differs."""

import pytest

from scanomaly.config.mvfa import MVFAConfig
from scanomaly.presets import preset
from scanomaly.presets.mvfa import MVFA_PRESETS

DIFFERENCES: dict[str, dict[str, object]] = {
    "mvfa-few": {},
    "mvfa-zero": {},
    "mvfa-few-single-adapter": {"adapters": {"heads": "single"}},
    "mvfa-zero-projectors": {
        "adapters": {"kind": "projector", "activation": "none", "output_activation": "none"}
    },
    "mvfa-few-as-written": {
        "adapters": {"activation": "relu", "output_activation": "none", "mixing": "together"},
        "loss": {"pooled": "max", "classification": "plain"},
        "score": {"pooled": "max", "few_shot": "paper"},
        "bank_class_tokens": False,
    },
    "mvfa-zero-as-written": {
        "adapters": {"activation": "relu", "output_activation": "none", "mixing": "together"},
        "loss": {"pooled": "max", "classification": "plain"},
        "score": {"pooled": "max"},
    },
    **{f"mvfa-few-level-{i}": {"blocks": (6 * i - 1,)} for i in (1, 2, 3, 4)},
    **{f"mvfa-few-all-levels-scored-{i}": {"scored_blocks": (6 * i - 1,)} for i in (1, 2, 3, 4)},
}


def difference(found: dict[str, object], plain: dict[str, object]) -> dict[str, object]:
    """What is not as in `plain`, nested alike."""
    different = {name: value for name, value in found.items() if value != plain[name]}
    return {
        name: difference(value, plain[name]) if isinstance(value, dict) else value
        for name, value in different.items()
    }


@pytest.mark.parametrize("name", MVFA_PRESETS)
def test_a_preset_differs_from_the_released_code_as_named_and_nowhere_else(name):
    config = preset(name).config
    changes = difference(config.model_dump(), MVFAConfig().model_dump())
    expected = dict(DIFFERENCES[name])
    if "zero" in name:
        expected["setting"] = "zero_shot"
    assert changes == expected


def test_published_training():
    few, zero = preset("mvfa-few").fit, preset("mvfa-zero").fit
    assert (few.epochs, few.batch_size, few.learning_rate, few.seed) == (50, 1, 1e-3, 111)
    assert (few.schedule, few.betas, few.weight_decay) == ("constant", (0.5, 0.999), 0.0)
    assert zero.learning_rate == 1e-4
    changed = {"learning_rate", "cache_features"}
    assert zero.model_dump(exclude=changed) == few.model_dump(exclude=changed)
    for name in ("mvfa-few-as-written", "mvfa-zero-as-written"):
        fit = preset(name).fit
        assert (fit.batch_size, fit.learning_rate) == (16, 1e-3)


@pytest.mark.parametrize("name", MVFA_PRESETS)
def test_data_are_those_of_the_setting(name):
    data = preset(name).data
    assert data.supervision == ("zero_shot" if "zero" in name else "few_shot")
    assert (data.shots, data.copies) == ((None, "none") if "zero" in name else (4, "mvfa"))
    assert data.training_folder == "valid", "test only in the published protocol"
