"""Attention that is fast where torch's own is not: in bf16 on a CPU.

N sequences, h heads, Q queries, T keys and values, e head width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_WEIGHTS = 2**25
"""Weights (N h Q T) that a CPU holds in bf16, 64 MiB: two products are faster there than torch's
own attention (`python benchmarks/attention.py`), and take memory."""
AT_ONCE = 2**21
"""Weights that are near the processor while it works on them."""


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Of queries (N, h, Q, e) with keys and values (N, h, T, e): (N, h, Q, e).

    mask: bool, broadcast to (N, h, Q, T), what each query sees.
    """
    weights = query.shape[:3].numel() * key.shape[2]
    plain = mask is None and not causal and weights <= MOST_WEIGHTS
    if not (plain and query.is_cpu and query.dtype is torch.bfloat16):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    few = max(1, AT_ONCE * len(query) // weights)
    parts = zip(query.split(few), key.split(few), value.split(few), strict=True)
    return torch.cat([_by_products(*part) for part in parts])


def _by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    mixed: Tensor = weights.softmax(dim=3) @ value
    return mixed
