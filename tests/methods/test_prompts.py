import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_parity import assert_parity
from scanomaly.backbones.clip import build_clip, tokenize
from scanomaly.config.backbones import ClipConfig
from scanomaly.config.mvfa import OBJECT_WORDS
from scanomaly.methods.prompts import Texts, ensemble, prompts
from tiny_clip import NAME, save_clip


@pytest.mark.parametrize("dataset", OBJECT_WORDS)
def test_published_prompts_token_by_token(golden, dataset):
    published = np.load(golden("mvfa_prompt_tokens.npz"))
    for sentences, state in zip(
        prompts(OBJECT_WORDS[dataset]), ("normal", "abnormal"), strict=True
    ):
        expected = published[f"tokens.{dataset}.{state}"]
        ids = tokenize(sentences).numpy()
        assert np.array_equal(ids[:, : expected.shape[1]], expected)
        assert not ids[:, expected.shape[1] :].any()


class StandIn:
    """The golden file's encoder: mean of table[id mod 97], plus 0.05 x place of the end token."""

    def __init__(self, table: Tensor) -> None:
        self.positions = self.table = table

    def encode(self, ids: Tensor) -> Tensor:
        assert ids.shape[1] == 77
        return self.table[ids % 97].mean(dim=1) + 0.05 * ids.argmax(dim=1, keepdim=True)


def test_the_published_ensemble(golden):
    table = load_file(golden("mvfa_text_ensemble.safetensors"))
    found = ensemble(StandIn(table["in.table"]), "Brain")
    assert_parity(found, table["out.text_features"])


def test_the_ensemble_of_a_real_text_tower_is_the_mean_of_unit_features(tmp_path):
    text = build_clip(ClipConfig(name=NAME, weights=str(save_clip(tmp_path)))).text
    found = ensemble(text, "stained tissue")
    assert found.shape == (12, 2)
    assert not found.requires_grad
    for column, sentences in zip(found.T, prompts("stained tissue"), strict=True):
        features = [text.encode(tokenize([sentence]))[0] for sentence in sentences[::7]]
        assert len(sentences) in (245, 175)
        assert column.norm().item() == pytest.approx(1)
        assert all(torch.cosine_similarity(column, f, dim=0) > 0 for f in features)
    single = [text.encode(tokenize([s]))[0] for s in prompts("stained tissue")[1]]
    mean = torch.stack([f / f.norm() for f in single]).mean(dim=0)
    torch.testing.assert_close(found[:, 1], mean / mean.norm(), rtol=0, atol=1e-5)


def test_each_object_is_encoded_once():
    stand_in = StandIn(torch.randn(97, 16, generator=torch.Generator().manual_seed(0)))
    texts = Texts(stand_in)
    assert [texts.index(words) for words in ("Brain", "Liver", "Brain")] == [0, 1, 0]
    first, second = texts.stacked()
    assert torch.equal(first, ensemble(stand_in, "Brain"))
    assert torch.equal(second, ensemble(stand_in, "Liver"))
    stand_in.table.zero_()
    assert texts.index("Liver") == 1
    assert torch.equal(texts.stacked()[1], second)
