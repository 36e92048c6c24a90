"""Blocks walked with keys and values in sight, against open_clip's own."""

from typing import Any

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from scanomaly.backbones.clip import ClipText, ClipVision
from scanomaly.backbones.clip.blocks import attend, project
from scanomaly.errors import ConfigError
from scanomaly.nn import attention
from tiny_clip import changed, make_clip


@pytest.fixture(params=[None, 0.3], ids=["plain", "layer-scale"])
def block(request) -> nn.Module:
    torch.manual_seed(0)
    block = ResidualAttentionBlock(12, 3, ls_init_value=request.param).eval()
    nn.init.normal_(block.attn.in_proj_bias)
    return block.requires_grad_(False)


@pytest.fixture
def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 5, 12, generator=generator).requires_grad_()


def value_and_gradient(output: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(output.square().sum(), tokens)
    return output, gradient


@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_are_open_clips(
    block: nn.Module, tokens: Tensor, causal: bool
) -> None:
    hidden = nn.Transformer.generate_square_subsequent_mask(5) if causal else None
    expected = value_and_gradient(block(tokens, attn_mask=hidden), tokens)
    found = value_and_gradient(attend(block, tokens, project(block, tokens), causal=causal), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_mask_says_what_each_token_sees(block: nn.Module, tokens: Tensor) -> None:
    visible = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    visible |= torch.eye(5, dtype=torch.bool)
    found = attend(block, tokens, project(block, tokens), mask=visible)
    for index in range(4):
        one = tokens[index : index + 1]
        expected = block(one, attn_mask=torch.zeros(5, 5).masked_fill(~visible[index, 0], -1e9))
        torch.testing.assert_close(found[index : index + 1], expected, rtol=1e-5, atol=1e-5)


def test_a_batch_meets_a_frozen_weight_once(block: nn.Module, tokens: Tensor) -> None:
    """Not once a token, as torch's own attention module has it: many times slower in bf16."""
    with torch.profiler.profile() as profile:
        attend(block, tokens, project(block, tokens)).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert "aten::addmm" in names
    assert "aten::bmm" not in names


def test_blocks_that_compute_more_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"plain blocks, got CustomResidual.* ViT-L-14-336"):
        ClipText(make_clip(changed(text_cfg={"qk_norm": True})))
    network = make_clip(changed(vision_cfg={"qk_norm": True})).visual
    with pytest.raises(ConfigError, match="plain blocks, got CustomResidualAttentionBlock"):
        ClipVision(network, (0.0,) * 3, (1.0,) * 3)


def names_of(block: nn.Module, tokens: Tensor, **options: Any) -> tuple[Tensor, set[str]]:
    with torch.profiler.profile() as profile, torch.autocast("cpu", torch.bfloat16):
        found = attend(block, tokens, project(block, tokens), **options)
        found.float().square().sum().backward()
    return found, {event.key for event in profile.key_averages()}


def test_few_weights_in_bf16_are_products(block: nn.Module, tokens: Tensor, monkeypatch) -> None:
    """On a CPU, where torch's own attention takes longer."""
    expected = value_and_gradient(attend(block, tokens, project(block, tokens)), tokens)
    found, names = names_of(block, tokens)
    assert "aten::bmm" in names
    assert "aten::scaled_dot_product_attention" not in names
    torch.testing.assert_close((found, tokens.grad), expected, rtol=0.05, atol=0.1)
    for options in ({"causal": True}, {"mask": torch.ones(4, 1, 5, 5, dtype=torch.bool)}):
        _, names = names_of(block, tokens, **options)
        assert "aten::scaled_dot_product_attention" in names
    monkeypatch.setattr(attention, "MOST_WEIGHTS", 4 * 3 * 5 * 5 - 1)
    _, names = names_of(block, tokens)
    assert "aten::scaled_dot_product_attention" in names, "more would take memory"
