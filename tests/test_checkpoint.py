"""Run folders on disk: what was saved comes back, and what cannot be used is named."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from backbones.tiny_networks import make_network, save_folder
from methods.tiny_detectors import (
    RESNET,
    batch_of,
    plain_autoencoder,
    random_images,
    weight_folders,
)
from scanomaly.calibration import Calibration
from scanomaly.checkpoint import (
    fill,
    load_calibration,
    load_detector,
    save_calibration,
    save_detector,
)
from scanomaly.config.run import load_run
from scanomaly.errors import CheckpointError, WeightsError
from scanomaly.files import DiskError
from scanomaly.methods import METHODS
from scanomaly.run_folder import (
    MODEL_FORMAT,
    TrainingRecord,
    load_training,
    read_state,
    save_training,
)


def rewrite(
    file: Path, change: Callable[[dict[str, Tensor]], object] = dict, **metadata: str
) -> None:
    """Save a model file again with changed tensors or metadata."""
    state, known = read_state(file)
    change(state)
    file.write_bytes(save(state, {**known, **metadata}))


def edit_json(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_run_folder_holds_everything_but_the_backbones(tiny):
    names = {path.name for path in tiny.folder.iterdir()}
    files = {"run.yaml", "model.safetensors", "calibration.json", "training.json"}
    assert names == files | {"checkpoints", "logs"}
    state, metadata = read_state(tiny.folder / "model.safetensors")
    assert state.keys() == tiny.fitted.detector.fitted_state().keys()
    assert metadata["method"] == "qfae"
    assert metadata["format"] == str(MODEL_FORMAT)
    assert len(json.loads(metadata["backbones"])) == 1


def test_a_loaded_detector_is_the_saved_one(tiny):
    detector, run = load_detector(tiny.folder)
    assert run == tiny.run
    assert not detector.training
    expected = tiny.fitted.detector.state_dict()
    assert detector.state_dict().keys() == expected.keys()
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saving_what_was_loaded_changes_nothing(tiny, tmp_path, precision):
    detector, run = load_detector(tiny.folder)
    save_detector(detector.use_precision(precision), run, tmp_path)
    assert (tmp_path / "run.yaml").read_bytes() == (tiny.folder / "run.yaml").read_bytes()
    found, metadata = read_state(tmp_path / "model.safetensors")
    expected, expected_metadata = read_state(tiny.folder / "model.safetensors")
    assert metadata == expected_metadata
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a run folder with run\.yaml, found none"):
        load_detector(tmp_path)


def test_a_run_that_was_not_finished(run_copy):
    (run_copy / "model.safetensors").unlink()
    message = r"model\.safetensors is missing: the run was not finished; .*--resume.* goes on"
    with pytest.raises(CheckpointError, match=message):
        load_detector(run_copy)


def test_another_methods_model(run_copy):
    rewrite(run_copy / "model.safetensors", method="autoencoder")
    message = r"model\.safetensors holds a autoencoder and .*run\.yaml describes a qfae; give each"
    with pytest.raises(CheckpointError, match=message):
        load_detector(run_copy)


@pytest.mark.parametrize("found", [str(MODEL_FORMAT + 1), "experimental"])
def test_a_newer_model(run_copy, found):
    rewrite(run_copy / "model.safetensors", format=found)
    message = rf"model\.safetensors has format {found} .* reads up to 1; upgrade with `pip install"
    with pytest.raises(CheckpointError, match=message):
        load_detector(run_copy)


def test_a_newer_run(run_copy):
    file = run_copy / "run.yaml"
    file.write_text(file.read_text().replace("format: 1", "format: 7"))
    with pytest.raises(CheckpointError, match=r"run\.yaml has format 7 .* reads up to 1; upgrade"):
        load_detector(run_copy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: b"\xff" * 100,
        lambda content: content[:8] + b"#" + content[9:],
    ],
    ids=["half", "five bytes", "empty", "noise", "broken header"],
)
def test_a_damaged_model(run_copy, damage):
    file = run_copy / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        CheckpointError, match=rf"{file} is damaged \(.+\); restore it or fit again"
    ):
        load_detector(run_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.popitem(), r"missing \['.+'\], unexpected nothing, other shapes none"),
        (lambda state: state.update(extra=torch.zeros(1)), r"unexpected \['extra'\], other shapes none"),  # noqa: E501
        (
            lambda state: state.update({"junction.queries": torch.zeros(3)}),
            r"unexpected \['junction\.queries'\]",
        ),
        (
            lambda state: state.update({name: t[..., :1].clone() for name, t in state.items()}),
            r"missing nothing, .* other shapes \['.+ \(.+\) but got \(.+1,?\)'",
        ),
    ],
    ids=["missing", "unexpected", "renamed", "shapes"],
)  # fmt: skip
def test_a_model_of_another_configuration(run_copy, change, message):
    rewrite(run_copy / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=rf"does not fit this model: .*{message}"):
        load_detector(run_copy)


def test_another_configuration_beside_the_model(run_copy):
    run = load_run(run_copy).with_overrides(["config.decoder.depth=2"])
    run.save(run_copy)
    with pytest.raises(
        CheckpointError, match=r"missing \['decoder\.blocks\.1.*configuration it was"
    ):
        load_detector(run_copy)


def test_a_refused_state_changes_nothing(tiny):
    detector, _ = load_detector(tiny.folder)
    before = {name: tensor.clone() for name, tensor in detector.fitted_state().items()}
    state = {name: torch.zeros_like(tensor) for name, tensor in list(before.items())[:-1]}
    with pytest.raises(CheckpointError, match=r"x\.safetensors does not fit"):
        fill(detector, state, Path("x.safetensors"))
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in detector.fitted_state().items()
    )


def test_other_pretrained_weights(run_copy, tmp_path):
    network = make_network(RESNET)
    with torch.no_grad():
        network.conv1.weight += 0.1
    other = save_folder(network, RESNET, tmp_path / "other")
    replace_weights(run_copy, other)
    message = (
        r"model\.safetensors was fitted with pretrained weights \w+ and those found here are \w+; "
        "`scanomaly weights verify` tells"
    )
    with pytest.raises(CheckpointError, match=message):
        load_detector(run_copy)


def test_the_same_pretrained_weights_elsewhere(tiny, run_copy, tmp_path):
    moved = shutil.copytree(tiny.weights / RESNET, tmp_path / "moved")
    replace_weights(run_copy, moved)
    detector, _ = load_detector(run_copy)
    image = batch_of(random_images(2))
    assert torch.equal(detector.predict(image).score, tiny.fitted.detector.predict(image).score)


def test_missing_pretrained_weights(run_copy, tmp_path):
    replace_weights(run_copy, tmp_path / "gone")
    with pytest.raises(WeightsError, match=r"gone does not exist; expected a weight file"):
        load_detector(run_copy)


def replace_weights(folder: Path, place: Path) -> None:
    """Point every backbone of a run at other weights."""

    def replaced(values: object) -> object:
        if isinstance(values, dict):
            return {
                key: str(place) if key == "weights" else replaced(value)
                for key, value in values.items()
            }
        return [replaced(value) for value in values] if isinstance(values, list) else values

    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(replaced(yaml.safe_load(file.read_text()))))


def test_a_full_disk_leaves_the_old_model(run_copy, monkeypatch):
    detector, run = load_detector(run_copy)
    before = {path.name: path.read_bytes() for path in run_copy.iterdir() if path.is_file()}

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match=r"model\.safetensors could not be written: No space left"):
        save_detector(detector, run, run_copy)
    after = {path.name: path.read_bytes() for path in run_copy.iterdir() if path.is_file()}
    assert after == before


def test_every_method_comes_back(tiny, tmp_path):
    run = tiny.run.model_copy(
        update={"method": "autoencoder", "config": plain_autoencoder(weight_folders(tmp_path))}
    )
    detector = METHODS[run.method].build(run.config)
    save_detector(detector, run, tmp_path / "run")
    found, found_run = load_detector(tmp_path / "run")
    assert found_run == run
    assert type(found) is METHODS["autoencoder"]
    state = detector.fitted_state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.fitted_state().items())


def test_calibration_comes_back(tmp_path):
    assert load_calibration(tmp_path) is None
    calibration = Calibration.of([0.1 + 0.2, 1e-9, 1.0], 0.05, (1 / 3, 2.0), "valid: 3 images")
    save_calibration(calibration, tmp_path)
    assert load_calibration(tmp_path) == calibration


def test_the_training_record_comes_back(tiny, tmp_path):
    assert load_training(tmp_path) is None
    record = TrainingRecord("train", "last epoch", "valid", "none", 4, 1.5, images={"train": 3})
    save_training(record, tmp_path)
    assert load_training(tmp_path).trained_on == "train"
    assert load_training(tiny.folder).trained_on == "train: 10 normal images of Brain"


@pytest.mark.parametrize(
    ("name", "load"),
    [("calibration.json", load_calibration), ("training.json", load_training)],
)
class TestJson:
    """The small files beside the model."""

    @pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", "\x00"])
    def test_damaged(self, run_copy, name, load, text):
        (run_copy / name).write_text(text)
        with pytest.raises(CheckpointError, match=rf"{name} is damaged .*restore it or fit again"):
            load(run_copy)

    def test_not_text(self, run_copy, name, load):
        (run_copy / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(CheckpointError, match=rf"{name} is damaged .*restore it or fit again"):
            load(run_copy)

    def test_unknown_fields(self, run_copy, name, load):
        edit_json(run_copy / name, colour="red")
        with pytest.raises(CheckpointError, match=rf"{name} is damaged .*'colour'"):
            load(run_copy)

    @pytest.mark.parametrize("found", [2, "two"])
    def test_newer(self, run_copy, name, load, found):
        edit_json(run_copy / name, format=found)
        message = rf"{name} has format {found} and .* reads up to 1; upgrade"
        with pytest.raises(CheckpointError, match=message):
            load(run_copy)


@pytest.mark.parametrize(
    "fields", [{"scores": 3}, {"scores": []}, {"scores": ["a"]}, {"map_range": None}]
)
def test_a_calibration_of_nonsense(run_copy, fields):
    edit_json(run_copy / "calibration.json", **fields)
    with pytest.raises(CheckpointError, match=r"calibration\.json is damaged"):
        load_calibration(run_copy)
