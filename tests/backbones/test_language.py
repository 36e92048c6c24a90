"""BERT, GPT-2 and tokenisers: weights in the hub's forms, words that come back, what is refused."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from scanomaly.backbones.language import (
    END_TOKEN,
    build_bert,
    build_gpt2,
    build_tokenizer,
    load_tokenizer,
)
from scanomaly.backbones.weights import INVENTORY, find, missing_message, verify
from scanomaly.config.vqa import FormerConfig, LanguageConfig
from scanomaly.errors import ConfigError, WeightsError

BERT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 30}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20, "vocab_size": 12}
WORDS = LanguageConfig(tokenizer="words", weights="random", layers=1, width=16, heads=2)
BIOBERT, SMALL_GPT2 = "pritamdeka/BioBert-PubMed200kRCT", "openai-community/gpt2"


def described(folder: Path, kind: str, sizes: dict[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **sizes}))
    return folder


@pytest.fixture
def biobert(tmp_path, monkeypatch) -> BertForSequenceClassification:
    """Three layers and a classifier, in the hub's older form, where names are looked up."""
    torch.manual_seed(0)
    sizes = {**BERT, "num_hidden_layers": 3, "max_position_embeddings": 18, "num_labels": 5}
    model = BertForSequenceClassification(BertConfig(**sizes))
    folder = described(tmp_path / BIOBERT, "bert", sizes)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path))
    return model.eval()


def test_the_first_layers_of_a_published_bert(biobert):
    model = build_bert(FormerConfig(layers=2, queries=4)).eval()
    theirs = biobert.bert
    assert len(model.encoder.layer) == 2
    assert model.pooler is None
    assert not model.embeddings.token_type_embeddings.weight.any()
    positions = model.embeddings.position_embeddings.weight
    torch.testing.assert_close(positions, theirs.embeddings.position_embeddings.weight)
    hidden = torch.randn(2, 4, 16)
    for ours, layer in zip(model.encoder.layer, theirs.encoder.layer[:2], strict=True):
        with torch.no_grad():
            found = ours.feed_forward_chunk(ours.attention(hidden, None)[0])
            expected = layer.feed_forward_chunk(layer.attention(hidden, None)[0])
        assert found.shape == expected.shape
        torch.testing.assert_close(
            ours.attention.self.query.weight, layer.attention.self.query.weight
        )
        torch.testing.assert_close(ours.output.dense.weight, layer.output.dense.weight)
        new = ours.crossattention.self.key
        assert 0.01 < float(new.weight.detach().std()) < 0.03
        assert not new.bias.any()


def test_more_layers_than_the_weights_have_are_refused(biobert):
    with pytest.raises(WeightsError, match=r"do not fit BertModel: \d+ keys missing"):
        build_bert(FormerConfig(layers=4, queries=4))


def gpt2_folder(folder: Path, *, hub: bool) -> GPT2LMHeadModel:
    """hub: without a prefix and with the masks of older versions."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**GPT2)).eval()
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    if hub:
        state = {k.removeprefix("transformer."): v for k, v in state.items()}
        state["h.0.attn.bias"] = torch.ones(1, 1, 20, 20)
    save_file(state, described(folder, "gpt2", GPT2) / "model.safetensors")
    return model


@pytest.mark.parametrize("hub", [True, False])
def test_a_published_gpt2(tmp_path, hub):
    theirs = gpt2_folder(tmp_path, hub=hub)
    ours = build_gpt2(LanguageConfig(weights=str(tmp_path)), 12, end=11).eval()
    assert ours.lm_head.weight is ours.transformer.wte.weight
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)
        read = ours(ids, encoder_hidden_states=torch.randn(1, 4, 16)).logits
    assert not torch.allclose(read, theirs(ids).logits)
    assert ours.config.eos_token_id == 11


def test_weights_for_another_tokeniser_are_refused(tmp_path):
    gpt2_folder(tmp_path, hub=True)
    with pytest.raises(WeightsError, match="know 12 tokens and the tokeniser has 13"):
        build_gpt2(LanguageConfig(weights=str(tmp_path)), 13, end=11)


def test_weights_of_another_kind_are_refused(tmp_path):
    gpt2_folder(tmp_path, hub=True)
    with pytest.raises(WeightsError, match="describes a gpt2, expected a bert"):
        build_bert(FormerConfig(weights=str(tmp_path), queries=4))
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="is no description of a transformers model"):
        build_gpt2(LanguageConfig(weights=str(tmp_path)), 12, end=11)


def test_missing_weights_say_what_to_do(monkeypatch):
    with pytest.raises(WeightsError, match=f"scanomaly weights fetch {SMALL_GPT2}"):
        build_gpt2(LanguageConfig(), 50257, end=50256)
    with pytest.raises(WeightsError, match="no known weights called 'nobody/nothing'"):
        build_gpt2(LanguageConfig(name="nobody/nothing"), 50257, end=50256)
    message = missing_message(SMALL_GPT2)
    assert "548 MB" in message
    assert "MIT" in message
    assert "model.safetensors, tokenizer_config.json, tokenizer.json, config.json" in message


def test_random_sizes_are_those_of_the_configuration():
    bert = build_bert(
        FormerConfig(
            weights="random", layers=1, queries=4, width=8, heads=2, hidden=12, positions=6
        )
    )
    assert bert.embeddings.position_embeddings.weight.shape == (6, 8)
    gpt2 = build_gpt2(WORDS, 9, end=0)
    assert gpt2.transformer.wte.weight.shape == (9, 16)
    assert isinstance(bert, BertModel)


def test_small_networks_attend_by_plain_products_and_say_the_same():
    ids = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]])
    seen = torch.rand(2, 6, 16)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    gpt2 = build_gpt2(WORDS, 9, end=0).eval()
    assert gpt2.config._attn_implementation == "eager"
    with torch.no_grad():
        plain = gpt2(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen).logits
        gpt2.set_attn_implementation("sdpa")
        fused = gpt2(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen).logits
    torch.testing.assert_close(plain[mask.bool()], fused[mask.bool()])
    large = build_gpt2(WORDS.model_copy(update={"width": 768, "heads": 12}), 9, end=0)
    assert large.config._attn_implementation == "sdpa"


TEXTS = ["Is it normal? No, it isn't.", "C3:  12.5% of\tthe brain.\n", 'He said "no"; über, 图']


@pytest.mark.parametrize("width", [768, 192, 48])
def test_random_weights_of_a_narrow_network_are_wider(width):
    """So that the sum over `width` inputs varies as much as in the published networks."""
    bert = build_bert(FormerConfig(weights="random", layers=1, width=width, heads=4, queries=2))
    gpt2 = build_gpt2(WORDS.model_copy(update={"width": width, "heads": 4}), 12, 0)
    query = bert.encoder.layer[0].crossattention.self.query.weight
    key = gpt2.transformer.h[0].attn.c_attn.weight
    for weight in (query, key):
        assert float(weight.detach().std()) * width**0.5 == pytest.approx(0.02 * 768**0.5, rel=0.05)


def test_words_come_back_exactly(tmp_path):
    tokenizer = build_tokenizer(WORDS, TEXTS)
    tokenizer.save_pretrained(str(tmp_path))
    for made in (tokenizer, load_tokenizer(tmp_path)):
        assert made.eos_token_id == made.pad_token_id == 0
        for text in TEXTS:
            assert made.decode(made(text)["input_ids"], skip_special_tokens=True) == text
        assert made("normal normality")["input_ids"][1] == made.unk_token_id == 1
        assert len(made) == len(tokenizer)


def test_a_word_is_known_after_a_blank_and_without():
    """Training texts may come as questions and answers apart."""
    tokenizer = build_tokenizer(WORDS, ["Is it?", "Yes."])
    together = tokenizer("Is it? Yes.")["input_ids"]
    assert tokenizer.unk_token_id not in together
    assert tokenizer(" Yes.")["input_ids"] == together[-2:]


def test_more_frequent_words_come_first():
    tokenizer = build_tokenizer(WORDS, ["b b a b", "a c"])
    numbers = tokenizer.get_vocab()
    assert numbers[" b"] < numbers[" a"] < numbers[" c"]
    again = build_tokenizer(WORDS, ["b b a b", "a c"])
    assert again.get_vocab() == numbers


def test_a_tokeniser_of_no_words_is_refused():
    with pytest.raises(ConfigError, match="needs texts to learn from"):
        build_tokenizer(WORDS, [])


def test_gpt2s_tokeniser_lies_beside_its_weights(tmp_path):
    gpt2_folder(tmp_path, hub=True)
    config = LanguageConfig(weights=str(tmp_path))
    with pytest.raises(WeightsError, match=r"holds no tokenizer\.json"):
        build_tokenizer(config, TEXTS)
    build_tokenizer(WORDS, TEXTS).save_pretrained(str(tmp_path))
    tokenizer = build_tokenizer(config, [])
    assert tokenizer.eos_token == tokenizer.pad_token == END_TOKEN
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="cannot be read as a tokeniser"):
        build_tokenizer(config, TEXTS)


def test_language_weights_are_found_and_verified(biobert, tmp_path):
    assert find(BIOBERT) == tmp_path / BIOBERT
    (finding,) = verify(tmp_path)
    assert finding.name == BIOBERT
    assert finding.ok
    state = biobert.state_dict()
    state["classifier.bias"][0] = float("nan")
    torch.save(state, tmp_path / BIOBERT / "pytorch_model.bin")
    (finding,) = verify(tmp_path)
    assert finding.problems == ("classifier.bias holds NaN or infinity",)


def test_licences_of_language_weights():
    assert INVENTORY[SMALL_GPT2].licence == "MIT"
    assert "not stated" in INVENTORY[BIOBERT].licence
    assert INVENTORY[BIOBERT].files == ("config.json", "pytorch_model.bin")
    assert INVENTORY["deit_base_patch16_224.fb_in1k"].licence == "Apache-2.0"
    assert INVENTORY["resnet50.tv2_in1k"].licence == "BSD-3-Clause"


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'scanomaly\[vqa\]'"):
        build_gpt2(WORDS, 9, end=0)
