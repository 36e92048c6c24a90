"""IQE-CLIP's experiments: released code, paper as written, and the rows of its ablations."""

import pytest

from scanomaly.config.run import Run
from scanomaly.presets import preset
from scanomaly.presets.iqe_clip import ABLATION_ROWS, IQE_PRESETS

SETTINGS = ("few", "zero")
ABLATIONS = {
    "baseline": {"prompts.class_tokens": 0, "prompts.learned": 0, "queries": None},
    "no-prompt-tuning": {"prompts.class_tokens": 0, "prompts.learned": 0},
    "no-iqm": {"queries": None},
    "no-class-tokens": {"prompts.class_tokens": 0},
    "no-learnable-tokens": {"prompts.learned": 0},
    "no-class-initialisation": {"queries.condition": "none"},
    "no-text-in-iqm": {"queries.text": False},
    "no-image-in-iqm": {"queries.image": False},
}
AS_WRITTEN = {
    "prompts.condition": "mlp",
    "prompts.learned": 4,
    "queries.condition": "mlp",
    "queries.order": "paper",
    "level_activation": "relu",
    "temperature": "none",
    "loss.weights.text": 0.8,
    "loss.weights.query": 0.2,
    "loss.pooled": "map_max",
    "loss.classification": "plain",
    "score.sigma": 0.0,
    "score.image": "map_max",
}
"""Paper's side of the comparison with the code (spec section 10)."""


def differences(run: Run, other: Run) -> dict[str, object]:
    """Fields of `run.config` that are not as in `other`, by dotted path."""

    def found(mine: object, theirs: object, path: str) -> dict[str, object]:
        if not (isinstance(mine, dict) and isinstance(theirs, dict)):
            return {} if mine == theirs else {path.removeprefix("."): mine}
        parts: dict[str, object] = {}
        for name, value in mine.items():
            parts |= found(value, theirs[name], f"{path}.{name}")
        return parts

    return found(run.config.model_dump(), other.config.model_dump(), "")


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_row_of_the_ablations_is_named_and_checked(setting):
    assert ABLATION_ROWS.keys() == ABLATIONS.keys()
    names = {f"iqe-{setting}", f"iqe-{setting}-as-written"}
    names |= {f"iqe-{setting}-{suffix}" for suffix in ABLATIONS}
    assert {name for name in IQE_PRESETS if name.startswith(f"iqe-{setting}")} == names


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("suffix", ABLATIONS)
def test_an_ablation_differs_as_named_and_nowhere_else(suffix, setting):
    run, full = preset(f"iqe-{setting}-{suffix}"), preset(f"iqe-{setting}")
    assert differences(run, full) == ABLATIONS[suffix]
    assert (run.fit, run.data) == (full.fit, full.data)


@pytest.mark.parametrize("setting", SETTINGS)
def test_as_written_differs_from_the_code_where_the_paper_does(setting):
    run, full = preset(f"iqe-{setting}-as-written"), preset(f"iqe-{setting}")
    assert differences(run, full) == AS_WRITTEN
    assert (run.fit.epochs, run.fit.batch_size, run.fit.learning_rate) == (50, 32, 1e-3)
    assert run.data == full.data


def test_published_training_and_scores():
    few, zero = preset("iqe-few"), preset("iqe-zero")
    for run in (few, zero):
        fit = run.fit
        assert (fit.epochs, fit.batch_size, fit.learning_rate, fit.seed) == (50, 16, 1e-4, 42)
        assert (fit.schedule, fit.betas) == ("constant", (0.5, 0.999))
        backbone = run.config.backbone
        assert (backbone.name, backbone.side) == ("ViT-L-14-336/openai", 240)
        assert (backbone.mean, backbone.std, backbone.quick_gelu) == ((0,) * 3, (1,) * 3, False)
    assert differences(few, zero) == {"score.image": "map_mean"}
    assert (few.data.supervision, few.data.shots, few.data.copies) == ("few_shot", 4, "mvfa")
    assert (zero.data.supervision, zero.data.copies) == ("zero_shot", "none")
    assert few.fit.cache_features
    assert not zero.fit.cache_features, "features of thousands of images fill a disk"
