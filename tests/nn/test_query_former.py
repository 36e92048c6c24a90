"""The junction against the published one, and against loops over heads, queries and keys."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_names import JUNCTION, renamed
from golden_parity import assert_parity, weights
from scanomaly.nn.query_former import MultiQueryAttention, NullKeyCrossAttention, QueryFormer


def published(table: dict[str, Tensor], **options: bool) -> QueryFormer:
    junction = QueryFormer(9, 32, heads=4, cross_head_width=64, mlp_ratio=2.0, **options).eval()
    junction.load_state_dict(renamed(weights(table), JUNCTION))
    return junction


@pytest.fixture
def table(golden) -> dict[str, Tensor]:
    return load_file(golden("qfae_junction.safetensors"))


def test_published_junction_is_causal_and_has_no_residuals(table):
    junction = published(table)
    attended = junction.self_attention(junction.queries.expand(2, -1, -1))
    assert_parity(attended, table["out.self_attn"])
    assert_parity(junction.cross_attention(attended, table["in.context"]), table["out.cross_attn"])
    assert_parity(junction(table["in.context"]), table["out.z"])


def test_published_attention_weights_have_the_null_key_first(table):
    cross = published(table).cross_attention
    inputs = (table["out.self_attn"], table["in.context"])
    assert_parity(cross.attention(*inputs), table["out.attn_weights"])
    masked = cross.attention(*inputs, table["in.keep_mask"])
    assert_parity(masked, table["out.attn_weights_masked"])
    hidden = ~table["in.keep_mask"].expand(-1, 4, -1, -1)
    assert (masked[..., 1:][hidden] == 0).all()


def test_published_mask(table):
    junction = published(table)
    found = junction(table["in.context"], table["in.keep_mask"])
    assert_parity(found, table["out.z_masked"])
    assert not torch.allclose(found, table["out.z"], atol=1e-3)


def test_published_junction_without_the_causal_mask(table):
    junction = published(table, causal=False)
    attended = junction.self_attention(junction.queries.expand(2, -1, -1))
    assert_parity(attended, table["alt.self_attn_noncausal"])
    assert_parity(junction(table["in.context"]), table["alt.z_noncausal"])


def softmax_of(logits: list[Tensor]) -> list[Tensor]:
    highest = max(logits)
    powers = [(value - highest).exp() for value in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("causal", [True, False])
def test_multi_query_attention_equals_a_loop_over_heads(causal):
    torch.manual_seed(0)
    width, heads = 12, 3
    attention = MultiQueryAttention(width, heads, causal=causal).double()
    x = torch.randn(2, 5, width, dtype=torch.float64)
    each = width // heads
    expected = torch.zeros_like(x)
    for image in range(2):
        for query in range(5):
            for head in range(heads):
                columns = slice(head * each, (head + 1) * each)
                projected = [attention.query_key_value(token) for token in x[image]]
                seen = projected[: query + 1] if causal else projected
                logits = [
                    projected[query][columns] @ token[width : width + each] / each**0.5
                    for token in seen
                ]
                for share, token in zip(softmax_of(logits), seen, strict=True):
                    expected[image, query, columns] += share * token[width + each :]
    torch.testing.assert_close(attention(x), attention.output(expected))


@pytest.mark.parametrize("masked", [True, False])
def test_null_key_cross_attention_equals_a_loop_over_heads(masked):
    torch.manual_seed(1)
    width, heads, each, tokens = 6, 2, 4, 3
    attention = NullKeyCrossAttention(width, heads, each).double()
    x = torch.randn(2, 5, width, dtype=torch.float64)
    context = torch.randn(2, tokens, width, dtype=torch.float64)
    keep = torch.rand(2, 1, 5, tokens) > 0.5
    keep[0, 0, 0] = False  # this query has the null key alone
    null_key, null_value = attention.null_key_value
    expected = torch.zeros(2, 5, heads * each, dtype=torch.float64)
    shares = torch.zeros(2, heads, 5, 1 + tokens, dtype=torch.float64)
    for image in range(2):
        for query in range(5):
            for head in range(heads):
                columns = slice(head * each, (head + 1) * each)
                asked = attention.query(attention.input_norm(x[image, query]))[columns]
                pairs = [(0, null_key, null_value)]
                for index in range(tokens):
                    key, value = attention.key_value(context[image, index]).chunk(2)
                    if not masked or keep[image, 0, query, index]:
                        pairs.append((1 + index, key[columns], value[columns]))
                weighted = softmax_of([asked @ key / each**0.5 for _, key, _ in pairs])
                for share, (index, _, value) in zip(weighted, pairs, strict=True):
                    expected[image, query, columns] += share * value
                    shares[image, head, query, index] = share
    mask = keep if masked else None
    found = attention(x, context, mask)
    torch.testing.assert_close(found, attention.output_norm(attention.output(expected)))
    torch.testing.assert_close(attention.attention(x, context, mask), shares.float())


def test_residual_adds_each_steps_input(table):
    junction, plain = published(table, residual=True), published(table)
    context = table["in.context"]
    x = junction.queries.expand(2, -1, -1)
    for step in (
        plain.self_attention,
        lambda x: plain.cross_attention(x, context),
        plain.feed_forward,
    ):
        x = x + step(x)
    torch.testing.assert_close(junction(context), x)


def test_local_start_adds_each_querys_own_context_token(table):
    context = torch.randn(2, 9, 32)
    local, plain = published(table, local_start=True), published(table)
    started = plain.self_attention(plain.queries + context)
    expected = plain.feed_forward(plain.cross_attention(started, context))
    torch.testing.assert_close(local(context), expected)


def test_dropout_is_the_only_randomness_of_training(table):
    junction, context = published(table).train(), table["in.context"]
    assert not torch.equal(junction(context), junction(context))
    junction.feed_forward[-1].p = 0.0
    assert torch.equal(junction(context), junction(context))
