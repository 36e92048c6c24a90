"""open_clip's transformer blocks, walked with queries, keys and values in sight.

torch's own attention module swaps the axes of a batch. Where gradients flow through a frozen
weight it is then multiplied token by token: measured on a CPU with batches of 4, 1.6 times slower
in fp32 and twenty times in bf16. The same values are computed here without the swap.

N sequences, T tokens, W width, h heads, e head width, P tokens that were seen before
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scanomaly.errors import ConfigError
from scanomaly.nn.attention import attention


class Projected(NamedTuple):
    """What a block's attention makes of its tokens."""

    query: Tensor
    """(N, h, T, e)"""
    key: Tensor
    """(N, h, T or P + T, e)"""
    value: Tensor


def project(block: Any, tokens: Tensor) -> Projected:
    """Of tokens (N, T, W)."""
    attention = block.attn
    joined = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    split = (attention.num_heads, -1)
    return Projected(*(x.unflatten(2, split).transpose(1, 2) for x in joined.chunk(3, dim=2)))


def attend(
    block: Any,
    tokens: Tensor,
    projected: Projected,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """The block's output (N, T, W). mask: bool (N, 1, T, P + T), what each token sees."""
    mixed = attention(*projected, mask=mask, causal=causal)
    tokens = tokens + block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
    result: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return result


def require_plain(blocks: Sequence[Any]) -> None:
    """Raises ConfigError for blocks that compute more than `project` and `attend` do."""
    from open_clip.transformer import ResidualAttentionBlock

    other = [block for block in blocks if not isinstance(block, ResidualAttentionBlock)]
    if other:
        raise ConfigError(
            f"expected a CLIP of open_clip's plain blocks, got {type(other[0]).__name__}; choose "
            "an architecture such as ViT-L-14-336."
        )


def constants(blocks: Sequence[Any]) -> dict[str, Tensor]:
    """What a tower's blocks compute with that no weight tells: heads and activation."""
    first = blocks[0]
    activation = type(first.mlp.gelu).__name__.encode()
    return {
        "heads": torch.tensor(first.attn.num_heads),
        "activation": torch.frombuffer(bytearray(activation), dtype=torch.uint8),
    }
