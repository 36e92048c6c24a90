import pytest
from pydantic import ValidationError

from scanomaly.config.data import DataConfig
from scanomaly.data.copies import COPIES
from scanomaly.data.rows import SPLITS
from scanomaly.errors import ConfigError
from scanomaly.presets import preset


def test_supervised_configurations():
    few = DataConfig(supervision="few_shot", shots=4, copies="mvfa")
    assert few.support == "published"
    assert DataConfig(supervision="few_shot", shots=3, support="seed:7").shots == 3
    assert DataConfig(supervision="few_shot", shots=3, support="test:0").shots == 3
    zero = DataConfig(supervision="zero_shot", target="Liver", exclude_siblings=True)
    assert zero.training_folder == "valid"
    assert DataConfig().supervision == "normals"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shots": 4}, r"data\.shots=4 belongs to data\.supervision=few_shot, got normals"),
        ({"support": "seed:7"}, r"data\.support=seed:7 belongs to .*few_shot"),
        ({"target": "Liver"}, r"data\.target=Liver belongs to .*zero_shot"),
        ({"exclude_siblings": True}, r"data\.exclude_siblings=True belongs to .*zero_shot"),
        ({"training_folder": "test"}, r"data\.training_folder=test belongs to .*zero_shot"),
        (
            {"supervision": "zero_shot", "target": "Liver", "shots": 4},
            r"data\.shots=4 belongs to .*few_shot, got zero_shot",
        ),
        (
            {"supervision": "few_shot", "shots": 4, "support": "seed7"},
            r"expected published, seed:NUMBER or test:NUMBER .* got 'seed7'",
        ),
        ({"supervision": "few_shot", "shots": 0}, "greater than 0"),
        ({"supervision": "zero_shot", "target": ""}, "at least 1 character"),
        ({"copies": "twice"}, "'none' or 'mvfa'"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**fields)


@pytest.mark.parametrize(("supervision", "field"), [("few_shot", "shots"), ("zero_shot", "target")])
def test_what_only_a_user_can_say_is_asked_for_when_it_is_needed(supervision, field):
    """A preset leaves it open."""
    incomplete = DataConfig(supervision=supervision)
    with pytest.raises(ConfigError, match=rf"{supervision} needs data\.{field}: give --{field}\."):
        incomplete.require_complete()
    DataConfig().require_complete()


def test_overrides_that_need_each_other_are_checked_together():
    run = preset("qfae-offline").with_overrides(["data.supervision=few_shot", "data.shots=4"])
    assert run.data.shots == 4
    with pytest.raises(ConfigError, match=r"data\.shots=4 belongs to data\.supervision=few_shot"):
        run.with_overrides(["data.supervision=normals"])


def test_choices_have_one_meaning_each():
    fields = DataConfig.model_fields
    assert set(COPIES) == set(fields["copies"].annotation.__args__)
    assert set(SPLITS) == set(fields["training_folder"].annotation.__args__)
