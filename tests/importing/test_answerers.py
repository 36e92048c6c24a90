"""Published answerers to run folders: golden outputs of the whole models."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from golden_parity import assert_parity
from golden_parity import weights as golden_weights
from importing.published_files import bert, gpt2, head, linears, random_values, saved, vit
from scanomaly.asking import load_answerer
from scanomaly.config.vqa import (
    FormerConfig,
    LanguageConfig,
    VisualConfig,
    VqaConfig,
    VqaDataConfig,
    VqaRun,
)
from scanomaly.run_folder import load_training
from scanomaly.vqa.checkpoint import FittedAnswerer
from scanomaly.vqa.items import VqaBatch

MODELS = {
    "mi_average_vit": "MI_average_vit",
    "mi_concate_vit": "MI_concat_vit",
    "mi_channel_vit": "MI_channel_vit",
    "kqformer_concate_vit": "KQF_concat_vit",
    "kqformer_channel_vit": "KQF_channel_vit",
}
"""Golden file -> published folder. Golden ResNets are one convolution, which no file has."""
SMALL: dict[str, Any] = {"weights": "random", "width": 16, "heads": 2}
VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}
WORDS = 60


def golden_run(folder: str) -> VqaRun:
    model, fusion, _ = folder.lower().split("_")
    former = FormerConfig(layers=2, queries=4, hidden=24, positions=24, head_hidden=24, **SMALL)
    config = VqaConfig(
        visual=VisualConfig(
            name="vit_tiny_patch16_224",
            weights="random",
            arguments={**VIT, "mlp_ratio": 2.0},
            side=32,
        ),
        former=former if model == "kqf" else None,
        decoder=LanguageConfig(layers=2, positions=40, **SMALL),
        fusion=fusion,
        memory_tokens=6,
        memory_hidden=8,
        max_tokens=12,
    )
    data = VqaDataConfig(colour="bgr", resize=40, crop=32)
    return VqaRun(preset="tiny", source="tests", config=config, data=data)


def published_tensors(table: dict[str, Tensor], *, former: bool) -> dict[str, Tensor]:
    """Golden values, and whatever else the published models own."""
    golden = golden_weights(table)
    shapes = {
        **vit("img_encoder_q.model", 16, 2, 32, 16, 5),
        **head("img_encoder_q.embed_0.head", 16, 24, 8, kernel=False),
        **head("img_encoder_q.embed_1.head", 16, 24, 16, kernel=True),
        **linears({"embed_img.0": (8, 15, 1), "embed_img.1": (6, 8, 1)}),
        **gpt2("decoder", 16, 2, 40, WORDS),
    }
    if former:
        shapes |= bert("qformer.model", 16, 24, 2, 24, 20)
        shapes |= head("qformer.embed_0.head", 16, 24, 8, kernel=False)
        shapes |= head("qformer.embed_1.head", 16, 24, 16, kernel=True)
    assert {name: tuple(value.shape) for name, value in golden.items()}.items() <= shapes.items()
    tensors = {**random_values(shapes), **golden}
    tensors["decoder.lm_head.weight"] = tensors["decoder.transformer.wte.weight"]
    tensors["decoder.transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    return tensors


@pytest.fixture
def tokenizer(tmp_path, monkeypatch) -> None:
    """GPT-2's folder with a tokeniser of as many words as the golden decoder knows."""
    folder = tmp_path / "weights" / "openai-community" / "gpt2"
    folder.mkdir(parents=True)
    end = "<|endoftext|>"
    words = {**{f"w{index}": index for index in range(WORDS - 1)}, end: WORDS - 1}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, end))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    save_file({"unused": torch.zeros(1)}, folder / "model.safetensors")
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture
def batch(golden) -> VqaBatch:
    table = load_file(golden("vqa_batch.safetensors"))
    return VqaBatch(
        images=(table["in.orig"], table["in.anomaly"], table["in.rec"]),
        ids=table["in.text"],
        attention=table["in.attn"],
        labels=table["in.label"],
        triple=torch.arange(2),
    )


def written(name: str, golden, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file as Lightning 1.5 leaves it, beside a run.yaml."""
    table = load_file(golden(f"vqa_model_{name}.safetensors"))
    tensors = published_tensors(table, former="kqformer" in name)
    golden_run(MODELS[name]).save(tmp_path)
    content = {"epoch": 3, "state_dict": OrderedDict(tensors), "optimizer_states": [{"state": {}}]}
    return saved(content, tmp_path / MODELS[name] / "best.ckpt"), table


@pytest.mark.usefixtures("tokenizer")
@pytest.mark.parametrize("name", MODELS)
def test_golden_outputs(name, golden, batch, command, tmp_path):
    file, table = written(name, golden, tmp_path)
    out = tmp_path / "run"
    done = command("import", "kqf", file, "--config", tmp_path / "run.yaml", "--out", out)
    assert done.code == 0, done.err
    model = FittedAnswerer.load(out, device="cpu").answerer
    with torch.no_grad():
        memory = model.memory(batch.images)
        assert_parity(memory, table["out.fused"])
        logits = model.decoder(
            input_ids=batch.ids, attention_mask=batch.attention, encoder_hidden_states=memory
        ).logits
        assert_parity(logits, table["out.logits"])
        assert_parity(model.loss(batch), table["out.loss"])
    record = load_training(out)
    assert "imported from best.ckpt" in record.trained_on
    assert "state of training: epoch, optimizer_states" in " ".join(record.notes)
    assert "no licence stated" in done.out
    asked = load_answerer(out, device="cpu")
    assert len(asked.generate(batch.images, ["w1 w2 ?", "w3 ?"])) == 2


@pytest.mark.usefixtures("tokenizer")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"decoder.lm_head.weight": torch.zeros(WORDS, 16)}),
            r"decoder.lm_head.weight differs by up to",
        ),
        (lambda t: t.pop("decoder.transformer.wpe.weight"), r"1 keys missing \(decoder.tr.*wpe"),
        (lambda t: t.update({"qformer.queries": torch.zeros(1)}), r"unknown \(qformer.queries\)"),
        (
            lambda t: t.update({"decoder.transformer.wte.weight": torch.zeros(50, 16)}),
            r"wte.weight expected \(60, 16\), found \(50, 16\)",
        ),
    ],
)
def test_what_does_not_fit(change, message, golden, refused, tmp_path):
    file, _ = written("kqformer_channel_vit", golden, tmp_path)
    tensors = torch.load(file, weights_only=True)["state_dict"]
    change(tensors)
    torch.save({"state_dict": tensors}, file)
    out = tmp_path / "out"
    refused(message, "import", "kqf", file, "--config", tmp_path / "run.yaml", "--out", out)
    assert not out.exists()


def test_without_gpt2s_tokeniser(golden, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    file, _ = written("kqformer_channel_vit", golden, tmp_path)
    words = ("--config", tmp_path / "run.yaml", "--out", tmp_path / "out")
    refused("openai-community/gpt2", "import", "kqf", file, *words)
    refused("are for detectors", "import", "kqf", file, *words, "--dataset", "Brain")
