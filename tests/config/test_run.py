"""A Run: overrides, messages, and the way to run.yaml and back."""

import errno
from pathlib import Path

import pytest
import yaml

from scanomaly.config.data import DataConfig
from scanomaly.config.experiment import RUN_FORMAT
from scanomaly.config.qfae import QFAEConfig
from scanomaly.config.run import CONFIGS, Run, backbone_names, load_run
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.files import DiskError
from scanomaly.presets import PRESETS, preset


@pytest.fixture
def run() -> Run:
    return preset("qfae-brain")


def changed_file(run: Run, folder: Path, **fields: object) -> Path:
    """A run.yaml with some of its top fields replaced."""
    run.save(folder)
    file = folder / "run.yaml"
    values = {**yaml.safe_load(file.read_text()), **fields}
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.mark.parametrize(
    ("assignment", "value_of", "expected"),
    [
        ("fit.epochs=50", lambda r: r.fit.epochs, 50),
        ("fit.learning_rate=1e-3", lambda r: r.fit.learning_rate, 1e-3),
        ("fit.precision=bf16", lambda r: r.fit.precision, "bf16"),
        ("fit.gradient_clip=1", lambda r: r.fit.gradient_clip, 1.0),
        ("fit.warm_start=runs/a=b", lambda r: r.fit.warm_start, "runs/a=b"),
        ("data.window=[-150, 250]", lambda r: r.data.window, (-150.0, 250.0)),
        ("data.augmentation=none", lambda r: r.data.augmentation, "none"),
        ("config.junction.causal=false", lambda r: r.config.junction.causal, False),
        ("config.perceptual.backbone.weights=/w", lambda r: r.config.perceptual.backbone.weights, "/w"),  # noqa: E501
        ("config.score_views.patches=[8, 16]", lambda r: r.config.score_views.patches, (8, 16)),
        ("config.loss=[{kind: mae, weight: 2}]", lambda r: r.config.loss[0].weight, 2.0),
        (" config.side =224", lambda r: r.config.side, 224),
    ],
)  # fmt: skip
def test_an_override_replaces_one_field(run, assignment, value_of, expected):
    changed = run.with_overrides([assignment])
    assert value_of(changed) == expected
    assert isinstance(changed.config, QFAEConfig)
    assert run == preset("qfae-brain")


def test_overrides_that_need_each_other_are_checked_together(run):
    changed = run.with_overrides(["config.decoder.patch=16", "config.junction.queries=196"])
    assert changed.config.grid == 14
    assert changed.fit == run.fit
    assert run.with_overrides([]) == run


def test_null_takes_a_value_away(run):
    windowed = run.with_overrides(["data.window=[0, 4095]"])
    assert windowed.with_overrides(["data.window=null"]) == run


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("fit.epoch=3", r"--set fit\.epoch: no field 'epoch'; there are epochs, batch_size, .*seed"),  # noqa: E501
        ("config.junction.query=3", r"no field 'query'; there are queries, width, .*local_start"),
        ("model.side=3", r"--set model\.side: a path begins with one of config, data, fit"),
        ("fit=3", r"--set fit: a path begins with one of config, data, fit"),
        ("preset=other", r"--set preset: a path begins with one of config, data, fit"),
        ("fit.epochs", r"expected --set path=value, got 'fit\.epochs'"),
        ("fit.epochs=[", r"--set fit\.epochs: '\[' is not YAML: .+\.$"),
        ("config.encoders.0.blocks=[1]", r"encoders\.0\.blocks: set the whole list at once, as YAML"),  # noqa: E501
        ("config.side.x=1", r"config\.side is one value and has no field 'x'"),
        ("data.window.low=1", r"data\.window is one value and has no field 'low'"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_says_what_there_is(run, assignment, message):
    with pytest.raises(ConfigError, match=message):
        run.with_overrides([assignment])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("fit.epochs=0", r"^the options given with --set: fit\.epochs: .*greater than 0$"),
        ("fit.epochs=many", r": fit\.epochs: Input should be a valid integer"),
        ("config.side=-1", r": config\.side: Input should be greater than 0"),
        ("config.score.image=max", r": config\.score\.image: Input should be 'mean\.mean', 'mean"),
        ("config.encoders=[]", r": config\.encoders: .*at least 1"),
        ("config.encoders=[{backbone: {name: x, size: 1}}]", r"encoders\.0\.backbone\.size: Extra"),
        ("config.junction.queries=5", r": config: junction\.queries 5 does not fill .* needs 784"),
        ("config.side=225", r": config: side 225 is not a multiple of decoder\.patch 8; use side 224"),  # noqa: E501
        ("config.score_views.sides=[64]", r"config\.score_views: expected either patches .* or sides"),  # noqa: E501
        ("data.calibration_share=1", r": data\.calibration_share: .*less than 1"),
        ("data.window=[1]", r": data\.window\.1: Field required"),
        ("data.augmentation=strong", r": data\.augmentation: Input should be 'none' or 'qfae'"),
        ("fit.accumulate=7", r": fit: fit\.batch_size 64 is not a multiple of .* = 7; use 63"),
        ("fit.cache_features=true", r": fit\.cache_features keeps .* set data\.augmentation=none"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_names_the_field(run, assignment, message):
    with pytest.raises(ConfigError, match=message) as raised:
        run.with_overrides([assignment])
    assert "\n" not in str(raised.value)
    assert "Value error" not in str(raised.value)


def test_every_wrong_value_is_named_at_once(run):
    with pytest.raises(ConfigError, match=r"config\.side: .*; fit\.epochs: "):
        run.with_overrides(["fit.epochs=0", "config.side=0"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_from_its_file(name, tmp_path):
    run = preset(name)
    run.save(tmp_path / "run")
    assert load_run(tmp_path / "run") == run
    assert load_run(tmp_path / "run" / "run.yaml") == run
    assert type(load_run(tmp_path / "run").config) is CONFIGS[run.method]


def test_numbers_come_back_to_the_last_bit(run, tmp_path):
    data = DataConfig(window=(0.1 + 0.2, 1 / 3), false_alarm_rate=1e-7)
    odd = run.model_copy(update={"data": data, "protocol": "paper"})
    odd.save(tmp_path)
    assert load_run(tmp_path) == odd


def test_words_in_any_language_come_back(run, tmp_path):
    named = run.model_copy(update={"source": "Größe — 脳"})
    named.save(tmp_path)
    assert load_run(tmp_path).source == "Größe — 脳"


def test_a_newer_format_asks_for_an_upgrade(run, tmp_path):
    file = changed_file(run, tmp_path, format=RUN_FORMAT + 1, new_field=1)
    with pytest.raises(CheckpointError, match=rf"{file} has format 2 .* reads up to 1; upgrade"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "fifth"}, r"run\.yaml: config: method 'fifth' is unknown; known are qfae, "),
        ({"method": None}, r"run\.yaml: method: Input should be a valid string"),
        ({"colour": "red"}, r"run\.yaml: colour: Extra inputs are not permitted"),
        ({"format": "one"}, r"run\.yaml: format: Input should be 1"),
        ({"config": 3}, r"run\.yaml: config: "),
        ({"fit": {"epochs": 0}}, r"run\.yaml: fit\.epochs: Input should be greater than 0"),
        ({"protocol": "hopeful"}, r"run\.yaml: protocol: Input should be 'honest' or 'paper'"),
    ],
)
def test_a_file_with_wrong_fields_is_named(run, tmp_path, fields, message):
    changed_file(run, tmp_path, **fields)
    with pytest.raises(ConfigError, match=message) as raised:
        load_run(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"preset: [unclosed", r"run\.yaml cannot be read as YAML: while parsing"),
        (b"\xff\xfe\x00", r"run\.yaml cannot be read as YAML: "),
        (b"a: b: c", r"run\.yaml cannot be read as YAML: mapping values are not allowed"),
        (b"- a\n- b", r"run\.yaml: expected the fields of a run, got list"),
        (b"", r"run\.yaml: expected the fields of a run, got NoneType"),
        (b"!!python/object/apply:os.getcwd []", r"run\.yaml cannot be read as YAML: could not"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    (tmp_path / "run.yaml").write_bytes(text)
    with pytest.raises(CheckpointError, match=message):
        load_run(tmp_path)


@pytest.mark.parametrize("name", ["", "nothing", "nothing/run.yaml"])
def test_what_is_no_run_folder_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"expected a run folder with run\.yaml, found none"):
        load_run(tmp_path / name)


def test_a_full_disk_leaves_the_old_file(run, tmp_path, monkeypatch):
    run.save(tmp_path)

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match=r"run\.yaml could not be written: No space left"):
        run.with_overrides(["fit.epochs=1"]).save(tmp_path)
    assert load_run(tmp_path) == run
    assert [file.name for file in tmp_path.iterdir()] == ["run.yaml"]


def test_backbone_names_are_those_of_every_part_once():
    assert backbone_names(preset("qfae-brain-encoder-dinov2-dino-mae")) == [
        "vit_large_patch14_reg4_dinov2.lvd142m",
        "vit_base_patch8_224.dino",
        "vit_large_patch16_224.mae",
    ]
    assert backbone_names(preset("qfae-offline")) == ["tf_efficientnet_lite0.in1k"]


def test_an_honest_run_never_trains_on_test_folders_that_a_protocol_chose():
    honest = preset("mvfa-zero")
    paper = honest.under("paper")
    assert (paper.protocol, paper.data.training_folder) == ("paper", "test")
    assert paper.under("honest") == honest
    own = honest.with_overrides(["data.training_folder=train"])
    assert own.under("honest") == own
