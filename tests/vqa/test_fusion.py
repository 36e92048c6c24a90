"""Fusion: the published BERT and heads, the slots, learned queries, our average, bad sizes."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_answerer import FORMER, random_images, vqa_config
from torch import Tensor, nn

from golden_parity import assert_parity
from golden_parity import weights as golden_weights
from scanomaly.backbones.language import build_bert
from scanomaly.config.vqa import FormerConfig
from scanomaly.errors import ConfigError
from scanomaly.vqa.fusion import (
    KqFormer,
    KqFormerFusion,
    MultiImageFusion,
    TokenHead,
    build_fusion,
    pictures,
)


@pytest.fixture
def golden_former(golden):
    table = load_file(golden("vqa_bert.safetensors"))
    sizes = FormerConfig(
        weights="random", width=32, heads=4, hidden=48, layers=2, positions=24, queries=8
    )
    former = KqFormer(build_bert(sizes), 8).eval()
    state = golden_weights(table)
    for absent in ("embeddings.position_ids", "embeddings.word_embeddings.weight"):
        del state[absent]
    found = former.model.load_state_dict(state, strict=False)
    assert found.unexpected_keys == []
    assert all("word_emb" in key or "token_type" in key for key in found.missing_keys)
    return former, table


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_published_bert(golden_former, attention):
    former, table = golden_former
    former.model.set_attn_implementation(attention)
    visual = table["in.visual"]
    with torch.no_grad():
        assert_parity(former(visual), table["out.zero_queries"])
        assert_parity(former.read(visual, table["in.queries"]), table["out.random_queries"])
        zeros = torch.zeros(2, 8, 32)
        embedded = former.model.embeddings(inputs_embeds=zeros)
        assert_parity(embedded, table["out.embed_zero"])


def test_the_published_attention_is_not_causal(golden_former):
    former, table = golden_former
    assert former.model.config._attn_implementation == "eager", "which returns its weights"
    attention = former.model.encoder.layer[0].attention
    every = torch.zeros(2, 1, 8, 8)
    with torch.no_grad():
        _, found = attention(table["out.embed_zero"], every)
    assert_parity(found, table["out.self_attn_layer0"])
    assert found[0, 0].triu(1).max() > 0


def test_the_published_heads(golden):
    table = load_file(golden("vqa_heads.safetensors"))
    head = TokenHead(32, 40, 32)
    head.load_state_dict(golden_weights(table, "w.local.head."))
    assert_parity(head.eval()(table["in.local"]), table["out.local_eval"])
    assert_parity(head.train()(table["in.local"]), table["out.local_train"])
    norm = head[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert_parity(norm.running_mean, table["out.local.running_mean_after"])
    assert_parity(norm.running_var, table["out.local.running_var_after"])


def test_the_published_linear_twin_is_the_head_of_one_token(golden):
    table = load_file(golden("vqa_heads.safetensors"))
    head = TokenHead(32, 40, 16)
    state = golden_weights(table, "w.global.head.")
    for name in ("0.weight", "3.weight"):
        state[name] = state[name][..., None]
    head.load_state_dict(state)
    tokens = table["in.global"][:, None]
    assert_parity(head.eval()(tokens)[:, 0], table["out.global_eval"])
    assert_parity(head.train()(tokens)[:, 0], table["out.global_train"])


def test_each_picture_that_the_slots_name_is_seen_once():
    images = random_images(2)
    seen = pictures(images, ("image", "blank", "image"), "concat")
    assert list(seen) == ["image", "blank"]
    assert seen["image"] is images[0]
    assert not seen["blank"].any(), "zeros after normalising: mid-grey"


def test_channels_are_grey_images_in_the_order_of_the_slots():
    images = random_images(2)
    seen = pictures(images, ("reconstruction", "image", "blank"), "channel")
    assert list(seen) == ["channel"]
    reconstruction = images[2]
    grey = 0.2989 * reconstruction[:, 0] + 0.587 * reconstruction[:, 1]
    torch.testing.assert_close(seen["channel"][:, 0], grey + 0.114 * reconstruction[:, 2])
    assert not seen["channel"][:, 2].any()


def token_sets(count: int = 3, width: int = 16) -> list[Tensor]:
    """`count` sets of (2, 5, width)."""
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(count, 2, 5, width, generator=generator))


def fusion_of(fusion: str, former: FormerConfig | None = FORMER, width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    config = vqa_config(fusion=fusion, former=former)
    return build_fusion(config, width, 5, 16).eval()


def test_our_average_is_the_mean_of_what_the_queries_found():
    sets = token_sets()
    fusion = fusion_of("average")
    assert isinstance(fusion, KqFormerFusion)
    with torch.no_grad():
        expected = torch.stack([fusion.former(tokens) for tokens in sets]).mean(dim=0)
        found = fusion(sets)
    assert found.shape == (2, FORMER.queries, 16)
    torch.testing.assert_close(found, expected)


def test_concat_keeps_the_order_of_the_slots():
    sets = token_sets()
    fusion = fusion_of("concat")
    with torch.no_grad():
        found, turned = fusion(sets), fusion(sets[::-1])
    count = FORMER.queries
    torch.testing.assert_close(found[:, :count], turned[:, -count:])
    assert not torch.allclose(found[:, :count], turned[:, :count])


def test_tokens_of_the_baseline_have_unit_length():
    for fusion, sets in (("average", token_sets()), ("channel", token_sets(1))):
        found = fusion_of(fusion, former=None)(sets)
        assert found.shape == (2, 5, 16)
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 5))


def test_a_token_of_zeros_stays_finite():
    found = fusion_of("average", former=None)([torch.zeros(2, 5, 16)] * 3)
    assert not found.any()


@pytest.mark.parametrize("former", [None, FORMER])
def test_other_channels_than_the_decoders_are_mapped(former):
    found = fusion_of("concat", former, width=20)(token_sets(width=20))
    assert found.shape == (2, 6 if former is None else 3 * FORMER.queries, 16)


def test_learned_queries_begin_like_other_weights_and_learn():
    learned = FORMER.model_copy(update={"learned_queries": True})
    fusion, zero = fusion_of("concat", learned), fusion_of("concat")
    assert isinstance(fusion, KqFormerFusion)
    queries = fusion.former.queries
    assert queries is not None
    assert queries.shape == (1, FORMER.queries, 16)
    spread = fusion.former.model.config.initializer_range
    assert float(queries.detach().std()) == pytest.approx(spread, rel=0.5)
    fusion.former.model.load_state_dict(zero.former.model.state_dict())
    sets = token_sets()
    assert not torch.allclose(fusion.former(sets[0]), zero.former(sets[0]), atol=1e-4)
    with torch.no_grad():
        queries.zero_()
    torch.testing.assert_close(fusion.former(sets[0]), zero.former(sets[0]))
    fusion(sets).square().sum().backward()
    assert queries.grad is not None
    assert queries.grad.abs().max() > 0


def test_every_trainable_value_is_used():
    """Processes of distributed training would wait for gradients that never come."""
    for fusion in ("average", "concat", "channel"):
        for former in (None, FORMER):
            module = fusion_of(fusion, former, width=20).train()
            sets = token_sets(1 if fusion == "channel" else 3, width=20)
            module(sets).square().sum().backward()
            idle = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
            assert idle == []


def test_a_former_of_another_width_is_refused():
    wide = FORMER.model_copy(update={"width": 32})
    with pytest.raises(ConfigError, match="former's width 32 is not the decoder's 16"):
        fusion_of("concat", wide)


def test_concat_of_unknown_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"set visual\.side or visual\.upsample"):
        build_fusion(vqa_config(former=None), 16, None, 16)
    assert isinstance(build_fusion(vqa_config(former=None), 16, 5, 16), MultiImageFusion)
