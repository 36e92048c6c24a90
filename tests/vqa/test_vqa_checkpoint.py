"""Run folders of answerers: what comes back, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scanomaly.config.vqa import VqaRun
from scanomaly.errors import CheckpointError, DataError
from scanomaly.vqa.checkpoint import FittedAnswerer, load_answerer, save_answerer, save_tokenizer
from vqa.tiny_answerer import QUESTIONS, VISUAL, random_images, tiny_answerer, vqa_config
from vqa.tiny_vqa import TinyVqa, tiny_vqa_run


@pytest.fixture
def folder(tiny_vqa: TinyVqa, tmp_path: Path) -> Path:
    """A copy of the tiny run folder, to be damaged at will."""
    return shutil.copytree(tiny_vqa.folder, tmp_path / "copy")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"former": None, "fusion": "concat"},
        {"visual": VISUAL["resnet"], "fusion": "channel"},
        {"former": vqa_config().former.model_copy(update={"learned_queries": True})},
    ],
    ids=["kqf", "mi", "resnet", "learned"],
)
def test_a_saved_answerer_answers_as_before(tmp_path, changes):
    answerer = tiny_answerer(**changes)
    generator = torch.Generator().manual_seed(3)
    for name, buffer in answerer.named_buffers():  # as training would
        if "running" in name:
            buffer.uniform_(0.5, 1.5, generator=generator)
    run = tiny_vqa_run().model_copy(update={"config": answerer.config})
    save_answerer(answerer, run, tmp_path)
    save_tokenizer(answerer.tokenizer, tmp_path)
    loaded, found = load_answerer(tmp_path)
    assert found.model_dump(mode="json") == run.model_dump(mode="json")
    assert not loaded.training
    images = random_images(2)
    expected = answerer.generate(images, QUESTIONS[:2])
    assert loaded.generate(images, QUESTIONS[:2]) == expected
    assert {text for text, *_ in expected} != {""}


def test_nothing_random_is_left(tiny_vqa: TinyVqa):
    torch.manual_seed(1)
    one = load_answerer(tiny_vqa.folder)[0].state_dict()
    torch.manual_seed(2)
    for name, tensor in load_answerer(tiny_vqa.folder)[0].state_dict().items():
        assert torch.equal(one[name], tensor), name


def test_decoding_is_what_run_yaml_says(tiny_vqa: TinyVqa, folder: Path):
    run = tiny_vqa.run.with_overrides(["config.beams=1", "config.reference_decoding=true"])
    run.save(folder)
    config = load_answerer(folder)[0].config
    assert (config.beams, config.reference_decoding) == (1, True)


def test_a_detector_is_no_answerer_nor_the_reverse(tiny_vqa: TinyVqa, run_copy, folder: Path):
    with pytest.raises(CheckpointError, match="found one of `scanomaly fit`"):
        FittedAnswerer.load(run_copy)
    shutil.copy(run_copy / "model.safetensors", folder)
    with pytest.raises(CheckpointError, match=r"holds a qfae and .* describes an answerer"):
        FittedAnswerer.load(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", None, r"model\.safetensors is missing: .* --resume` goes on"),
        ("model.safetensors", b"no weights", r"model\.safetensors is damaged"),
        ("tokenizer/tokenizer.json", None, r"holds no tokenizer\.json; .* or fit again"),
        ("tokenizer/tokenizer.json", b"{}", r"tokenizer\.json cannot be read .* or fit again"),
        ("run.yaml", None, r"expected a run folder with run\.yaml"),
        ("training.json", b"[]", r"training\.json is damaged"),
    ],
)
def test_a_damaged_folder(folder: Path, file, content, message):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        FittedAnswerer.load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"config": ""}, r"is damaged \(its metadata holds no configuration\)"),
        ({"config": json.dumps({"fusion": "sum"})}, r"its metadata holds no configuration"),
        ({"format": "2"}, r"has format 2 and this Scanomaly reads up to 1"),
    ],
)
def test_damaged_metadata(folder: Path, metadata, message):
    rewritten(folder, **metadata)
    with pytest.raises(CheckpointError, match=message):
        FittedAnswerer.load(folder)


def test_values_that_do_not_fit(folder: Path):
    rewritten(folder, without="fusion.head.0.weight")
    with pytest.raises(CheckpointError, match=r"does not fit this model: missing \['fusion\.head"):
        FittedAnswerer.load(folder)


def rewritten(folder: Path, without: str = "", **metadata: str) -> None:
    from safetensors import safe_open

    file = folder / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        known = opened.metadata()
    state = {name: tensor for name, tensor in load_file(file).items() if name != without}
    save_file(state, file, {**known, **metadata})


def test_a_missing_picture_is_named(tiny_vqa: TinyVqa, tmp_path):
    from dataclasses import replace

    item = replace(tiny_vqa.corpus.test[0], anomaly_map=tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"gone\.png"):
        tiny_vqa.fitted.answers([[item]])


def test_old_options_come_back(tiny_vqa: TinyVqa):
    assert VqaRun.load(tiny_vqa.folder) == tiny_vqa.run
