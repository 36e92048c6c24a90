"""The query transformer against the published one, and against a loop over heads and tokens."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_names_iqe import renamed_queries
from golden_parity import assert_parity, weights
from scanomaly.nn.instance_queries import AbsorbedAttention, FeedForward, InstanceQueries

PUBLISHED_VALUES = 47_264_256
KEY_BIASES = 4 * 3 * 768


@pytest.fixture
def table(golden) -> dict[str, Tensor]:
    return load_file(golden("iqe_iqm.safetensors"))


def published(table: dict[str, Tensor], **options: float) -> InstanceQueries:
    queries = InstanceQueries(32, depth=2, heads=4, hidden=48, **options).eval()
    queries.load_state_dict(renamed_queries(weights(table)))
    return queries


def test_published_first_block_step_by_step(table):
    queries = published(table)
    image, text = table["in.visual"], table["in.text"]
    block = queries.blocks[0]
    x = queries.norm(table["in.query"])
    assert_parity(x, table["out.l0.norm"])
    for source, context, name in (
        ("self", x, "self"),
        ("image", image, "visual_cross"),
        ("text", text, "text_cross"),
    ):
        x = block.attention[source](x, context)
        assert_parity(x, table[f"out.l0.{name}"])
    assert_parity(block.feed_forward["text"](x), table["out.l0.ffn"])


def test_published_queries_of_every_level_at_once(table):
    queries, image = published(table), table["in.visual"]
    levels = torch.stack([image, image.flip(1) * 2, image])
    found = queries(table["in.query"], levels, table["in.text"])
    assert found.shape == (3, 3, 2, 32)
    for level in (0, 2):
        assert_parity(found[level], table["out.query"])
    alone = queries(table["in.query"], levels[1:2], table["in.text"])
    torch.testing.assert_close(found[1], alone[0])
    assert not torch.allclose(found[1], found[0], atol=1e-3)


def test_published_number_of_values():
    with torch.device("meta"):
        queries = InstanceQueries(768)
    assert sum(p.numel() for p in queries.parameters()) == PUBLISHED_VALUES - KEY_BIASES


def looped(attention: AbsorbedAttention, x: Tensor, context: Tensor, key_bias: Tensor) -> Tensor:
    """One head, query and token after the other, keys and values projected."""
    each = x.shape[-1] // attention.heads
    mixed = torch.zeros_like(x)
    for image in range(x.shape[0]):
        for index, query in enumerate(attention.query(x[image])):
            keys = attention.key(context[image]) + key_bias
            for head in range(attention.heads):
                part = slice(head * each, (head + 1) * each)
                powers = [(query[part] @ key[part] / each**0.5).exp() for key in keys]
                for power, token in zip(powers, context[image], strict=True):
                    mixed[image, index, part] += power / sum(powers) * attention.value(token)[part]
    return attention.norm(attention.output(mixed) + x)


def test_absorbed_attention_equals_a_loop_over_projected_tokens():
    torch.manual_seed(0)
    attention = AbsorbedAttention(12, 3, 0.1).double().eval()
    x, context = (torch.randn(2, count, 12, dtype=torch.float64) for count in (2, 5))
    key_bias = torch.randn(12, dtype=torch.float64)  # in the published code, without any effect
    torch.testing.assert_close(attention(x, context), looped(attention, x, context, key_bias))


def test_absorbed_dropout_also_drops_the_value_bias():
    """As where values are projected before shares are dropped: nothing attended, nothing added."""
    torch.manual_seed(0)
    attention = AbsorbedAttention(12, 3, 0.999).train()
    torch.nn.init.constant_(attention.value.bias, 5.0)
    torch.nn.init.zeros_(attention.output.bias)
    x, context = torch.randn(1, 2, 12), torch.randn(1, 4, 12)
    torch.testing.assert_close(attention(x, context), attention.norm(x))


def test_paper_order_is_text_before_image_with_a_feed_forward_after_each():
    torch.manual_seed(0)
    queries = InstanceQueries(8, depth=1, heads=2, hidden=12, order="paper").eval()
    x, image, text = torch.randn(2, 2, 8), torch.randn(1, 2, 5, 8), torch.randn(2, 2, 8)
    block = queries.blocks[0]
    expected = queries.norm(x)
    for source, context in (("self", None), ("text", text), ("image", image[0])):
        expected = block.attention[source](expected, expected if context is None else context)
        assert isinstance(block.feed_forward[source], FeedForward)
        expected = block.feed_forward[source](expected)
    torch.testing.assert_close(queries(x, image, text)[0], expected)


@pytest.mark.parametrize("order", ["code", "paper"])
@pytest.mark.parametrize("off", ["image", "text"])
def test_an_ablated_source_has_neither_weights_nor_effect(off, order):
    torch.manual_seed(0)
    queries = InstanceQueries(8, depth=2, heads=2, hidden=12, order=order, **{off: False}).eval()
    assert not [name for name, _ in queries.named_parameters() if off in name]
    given = {"image": torch.randn(2, 3, 5, 8), "text": torch.randn(3, 2, 8)}
    x = torch.randn(3, 2, 8)
    before = queries(x, **given)
    other = queries(x, **{**given, off: given[off] + 1})
    assert torch.equal(before, other)
    (kept,) = given.keys() - {off}
    assert not torch.allclose(before, queries(x, **{**given, kept: given[kept] + 1}), atol=1e-3)


def test_queries_and_text_that_are_the_same_for_all_images_are_given_once(table):
    queries, image = published(table), table["in.visual"][None]
    x, text = table["in.query"][:1], table["in.text"][:1]
    expected = queries(x.expand(3, -1, -1), image, text.expand(3, -1, -1))
    torch.testing.assert_close(queries(x, image, text), expected)
