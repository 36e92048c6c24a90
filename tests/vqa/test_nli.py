"""Judges of entailment: tiny random networks in transformers' own folders, and a scripted one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from scanomaly.errors import WeightsError
from scanomaly.metrics.answers import mean_estimates
from scanomaly.vqa import nli
from scanomaly.vqa.nli import MODELS, RELATIONS, REVERSED, TIE, Judge, load_judges

WORDS = ["yes", "no", "left", "right", "lobe", "a", "lesion", "."]
FAMILIES = ("bert", "roberta", "deberta-v2", "bart")
SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 8, "max_position_embeddings": 40, "pad_token_id": 0}  # fmt: skip
OWN_SIZES = {
    "bart": {"vocab_size": 20, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8,
             "decoder_ffn_dim": 8, "max_position_embeddings": 40, "pad_token_id": 0,
             "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
}  # fmt: skip


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    words = Tokenizer(models.WordLevel({w: at for at, w in enumerate(names)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def save_model(folder, family="bert", labels=RELATIONS, headless=False):
    """A tiny network with fixed random values as transformers saves it."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        family, **OWN_SIZES.get(family, SIZES), id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)},
    )  # fmt: skip
    torch.manual_seed(0)
    build = AutoModel if headless else AutoModelForSequenceClassification
    network = build.from_config(config)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


PREMISES = ["yes . a lesion", "no", "left lobe", "", "no"]
HYPOTHESES = ["yes .", "no lesion right", "left lobe", "yes", "no lesion right"]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_judges_from_a_folder(tmp_path, family):
    folder = save_model(tmp_path / "model", family)
    judge = load_judges([str(folder)])[str(folder)]
    found = judge.probabilities(PREMISES, HYPOTHESES)
    assert found.shape == (5, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(found[1], found[4])
    assert len(np.unique(found.round(6), axis=0)) == 4
    alone = [judge.probabilities([p], [h])[0] for p, h in zip(PREMISES, HYPOTHESES, strict=True)]
    np.testing.assert_allclose(found, alone, atol=1e-5)  # padding changes nothing


def test_the_order_of_labels_is_read_from_the_config(tmp_path):
    plain = save_model(tmp_path / "plain")
    turned = save_model(tmp_path / "turned", labels=("CONTRADICTION", "Neutral", "entailment"))
    judges = load_judges([str(plain), str(turned)])
    one, other = (judge.probabilities(PREMISES, HYPOTHESES) for judge in judges.values())
    np.testing.assert_allclose(one, other[:, ::-1])


def test_longer_texts_than_a_model_takes_are_cut(tmp_path):
    judge = load_judges([str(save_model(tmp_path / "m", "roberta"))]).popitem()[1]
    long = judge.probabilities(["left " * 500], ['a\t"lesion" \'' * 500])
    assert np.isfinite(long).all()


class Tokens(dict):
    def to(self, device):
        return self


class Scripted:
    """A network that answers pairs of texts with given logits, and its own tokeniser."""

    model_max_length = 64
    device = "cpu"

    def __init__(self, logits):
        self.logits = logits
        self.config = SimpleNamespace(id2label=dict(enumerate(RELATIONS)))
        self.batches = []

    def eval(self):
        return self

    def __call__(self, *texts, pairs=(), **options):
        if texts:
            self.batches.append(len(texts[0]))
            return Tokens(pairs=list(zip(*texts, strict=True)))
        return SimpleNamespace(logits=torch.tensor([self.logits[pair] for pair in pairs]))


def scripted(logits):
    network = Scripted(logits)
    return Judge("scripted", network, network), network


def test_both_directions_and_ties_are_told():
    judge, _ = scripted(
        {
            ("a", "b"): (2.0, 1.0, 0.0),
            ("b", "a"): (0.0, 0.0, 3.0),
            ("c", "d"): (1.0, 1.0, 0.0),
            ("d", "c"): (0.0, 5.0, 1.0),
            ("e", "f"): (2.0, 2.0001, 0.0),
            ("f", "e"): (1.0, 1.0, 1.0),
        }
    )
    found = judge.relations(["a", "c", "e"], ["b", "d", "f"])
    assert found["entailment"].tolist() == [True, False, False]
    assert found["neutral"].tolist() == [False, False, True]
    assert found["contradiction"].tolist() == [False, False, False]
    assert found[TIE].tolist() == [False, True, False]
    assert found[f"contradiction{REVERSED}"].tolist() == [True, False, False]
    assert found[f"neutral{REVERSED}"].tolist() == [False, True, False]
    assert found[f"{TIE}{REVERSED}"].tolist() == [False, False, True]
    for names in ([*RELATIONS, TIE], [f"{name}{REVERSED}" for name in (*RELATIONS, TIE)]):
        assert sum(found[name].astype(int) for name in names).tolist() == [1, 1, 1]
    shares = mean_estimates(found, ["p", "q", "q"], repeats=20)
    assert shares["entailment"].value == pytest.approx(1 / 3)
    assert "premise:answer|hypothesis:reference" in judge.signature


def test_pairs_are_judged_in_batches_and_equal_ones_once(monkeypatch):
    monkeypatch.setattr(nli, "_PAIRS_AT_ONCE", 2)
    texts = ["a", "b", "a", "c"]
    judge, network = scripted({(t, t): (1.0, 0.0, 0.0) for t in texts})
    assert judge.probabilities(texts, texts).shape == (4, 3)
    assert network.batches == [2, 1]
    assert judge.probabilities([], []).shape == (0, 3)
    assert judge.relations([], [])[TIE].shape == (0,)


@pytest.mark.parametrize(
    "labels", [("LABEL_0", "LABEL_1", "LABEL_2"), ("entailment", "not_entailment")]
)
def test_labels_that_are_not_those_of_inference(tmp_path, labels):
    folder = save_model(tmp_path / "model", labels=labels)
    with pytest.raises(WeightsError, match=f"got {', '.join(labels)}; correct id2label"):
        load_judges([str(folder)])


def test_a_model_without_a_trained_classifier_is_refused(tmp_path):
    folder = save_model(tmp_path / "model", headless=True)
    with pytest.raises(WeightsError, match="has no values for classifier"):
        load_judges([str(folder)])


def test_a_folder_that_lacks_files_or_is_damaged(tmp_path):
    folder = save_model(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "no such thing"}))
    with pytest.raises(WeightsError, match=r"it needs config\.json, tokenizer\.json"):
        load_judges([str(folder)])
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"holds none of model\.safetensors"):
        load_judges([str(folder)])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_not_here_says_where_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"weights fetch {MODELS[name]}"):
        load_judges([name])


OTHER = "someone/tiny-mnli"


def in_weights_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights" / OTHER


def in_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / f"models--{OTHER.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    return repository / "snapshots" / "abc"


@pytest.mark.parametrize("place", [in_weights_directory, in_hub_cache])
def test_any_name_that_is_here_judges(place, tmp_path, monkeypatch):
    folder = save_model(place(tmp_path, monkeypatch))
    named, by_folder = load_judges([OTHER, str(folder)]).values()
    assert OTHER in named.signature
    np.testing.assert_array_equal(
        named.probabilities(PREMISES, HYPOTHESES), by_folder.probabilities(PREMISES, HYPOTHESES)
    )


@pytest.mark.parametrize("name", ["no-such-model", OTHER, "runs/judges/absent", "no such/model!"])
def test_an_unknown_name_is_refused(name, tmp_path, monkeypatch):
    in_hub_cache(tmp_path, monkeypatch)
    monkeypatch.setenv("SCANOMALY_WEIGHTS", "/my/weights")
    with pytest.raises(WeightsError) as caught:
        load_judges([name])
    message = str(caught.value)
    assert "(bart, deberta, mdeberta, roberta, the OWNER/NAME of another" in message
    assert f"got {name!r}, which is not; fetch it with `hf download OWNER/NAME`" in message
    assert "Looked in /my/weights, " in message
    assert "timm" not in message
