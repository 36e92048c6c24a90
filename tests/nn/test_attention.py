"""Attention in bf16 on a CPU: the values of torch's own, from two products."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scanomaly.nn import attention as module
from scanomaly.nn.attention import attention
from scanomaly.nn.image_decoder import ImageDecoder, SelfAttention

TORCHS_OWN = "aten::scaled_dot_product_attention"


def operations(*inputs: Tensor, **options: object) -> tuple[Tensor, set[str]]:
    with torch.profiler.profile() as profile:
        found = attention(*inputs, **options)
    return found, {event.key for event in profile.key_averages()}


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Five sequences, three heads; seven queries of eleven keys."""
    torch.manual_seed(0)
    return tuple(torch.randn(5, 3, count, 4).bfloat16() for count in (7, 11, 11))


@pytest.mark.parametrize("at_once", [1, 2 * 3 * 7 * 11, 2**21])
def test_values_and_gradients_are_those_of_torch(inputs, at_once, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    given = [each.clone().requires_grad_() for each in inputs]
    exact = [each.double().requires_grad_() for each in inputs]
    found, expected = attention(*given), F.scaled_dot_product_attention(*exact)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)
    found.sum().backward()
    expected.sum().backward()
    for ours, theirs in zip(given, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.05, atol=0.05)


def test_products_where_they_are_faster_and_fit_into_memory(inputs, monkeypatch):
    found, names = operations(*inputs)
    assert TORCHS_OWN not in names
    in_fp32, names = operations(*(each.float() for each in inputs))
    assert TORCHS_OWN in names
    torch.testing.assert_close(found.float(), in_fp32, rtol=0.02, atol=0.02)
    seen = torch.ones(7, 11, dtype=torch.bool).tril()
    assert TORCHS_OWN in operations(*inputs, mask=seen)[1]
    assert TORCHS_OWN in operations(*inputs, causal=True)[1]
    monkeypatch.setattr(module, "MOST_WEIGHTS", 5 * 3 * 7 * 11 - 1)
    assert TORCHS_OWN in operations(*inputs)[1]


def test_the_decoders_attention_is_timms():
    torch.manual_seed(0)
    decoder = ImageDecoder(6, (2, 3), 4, width=8, depth=1, heads=2)
    ours = decoder.blocks[0].attn
    assert isinstance(ours, SelfAttention)
    theirs = SelfAttention.__base__(8, 2, qkv_bias=True)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(tokens), theirs(tokens))
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(ours(tokens, seen), theirs(tokens, attn_mask=seen))
    torch.testing.assert_close(ours(tokens, is_causal=True), theirs(tokens, is_causal=True))
