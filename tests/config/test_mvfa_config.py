import pytest
from pydantic import ValidationError

from scanomaly.config.backbones import ClipConfig
from scanomaly.config.mvfa import OBJECT_WORDS, MVFAConfig
from scanomaly.data.bmad import BMAD_SETS


def test_defaults_are_the_released_code():
    config = MVFAConfig()
    assert config.backbone.name == "ViT-L-14-336/openai"
    assert (config.backbone.mean, config.backbone.std) == ((0.0,) * 3, (1.0,) * 3)
    assert (config.side, config.backbone.quick_gelu) == (240, False)
    assert [block + 1 for block in config.blocks] == [6, 12, 18, 24]
    assert (config.adapters.share, config.adapters.mixing, config.adapters.heads) == (
        0.1,
        "each",
        "dual",
    )


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("Brain", "Brain"),
        ("Retina_OCT2017", "retinal OCT"),
        ("Chest", "Chest X-ray film"),
        ("Histopathology", "histopathological image"),
        ("knee_mri", "knee mri"),
    ],
)
def test_words_come_from_the_data_set(dataset, words):
    assert MVFAConfig().for_dataset(dataset).object == words
    assert MVFAConfig(object="skin").for_dataset(dataset).object == "skin"


def test_words_of_another_published_data_set_do_not_stay():
    """Such as those in the run.yaml of a run on it."""
    brain = MVFAConfig().for_dataset("Brain")
    assert brain.for_dataset("Liver").object == "Liver"
    assert brain.for_dataset("Retina_RESC").for_dataset("Retina_OCT2017").object == "retinal OCT"
    assert brain.for_dataset("knee_mri").object == "Brain", "of a set that we do not know"


def test_every_bmad_set_has_words():
    assert OBJECT_WORDS.keys() == BMAD_SETS.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": (11, 5)}, r"rise, such as \(5, 11, 17, 23\), got \(11, 5\)"),
        ({"blocks": (5, 5)}, "rise"),
        ({"blocks": (-1,)}, "counted from 0"),
        ({"scored_blocks": (6,)}, r"scored_blocks \(6,\) must be among"),
        ({"backbone": ClipConfig()}, "backbone.side .* got None; published: 240"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        MVFAConfig(**fields)
