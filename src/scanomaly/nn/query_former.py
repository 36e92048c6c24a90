"""QFAE's junction: learned queries gather what the decoder needs from the encoder's tokens.

B images, Q queries, T context tokens, D width, h heads, d head width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.nn.attention import attention


class MultiQueryAttention(nn.Module):
    """Self-attention with one key and value shared by all heads; causal in the published code."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.head_width = width // heads
        self.query_key_value = nn.Linear(width, width + 2 * self.head_width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        width = x.shape[-1]
        query, key, value = self.query_key_value(x).split(
            [width, self.head_width, self.head_width], dim=-1
        )
        query = query.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)
        key, value = (t[:, None].expand(-1, self.heads, -1, -1) for t in (key, value))
        mixed = attention(query, key, value, causal=self.causal)
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return merged


class NullKeyCrossAttention(nn.Module):
    """Cross-attention whose first key and value are learned: a query may attend to nothing.

    The head width is fixed, independent of the model's width; the context is not normalised.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.head_width = head_width
        self.input_norm = nn.LayerNorm(width)
        self.null_key_value = nn.Parameter(torch.randn(2, head_width))
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.output_norm = nn.LayerNorm(width)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)
        return heads

    def _attention_inputs(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query = self._split(self.query(self.input_norm(x)))
        key, value = (self._split(t) for t in self.key_value(context).chunk(2, dim=-1))
        null_key, null_value = (
            t.to(key.dtype).expand(key.shape[0], self.heads, 1, -1) for t in self.null_key_value
        )
        return query, torch.cat((null_key, key), dim=2), torch.cat((null_value, value), dim=2)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor | None = None) -> Tensor:
        """x (B, Q, D), context (B, T, D), keep: bool (B, 1 or h, Q, T), True = attend.

        Returns (B, Q, D).
        """
        query, key, value = self._attention_inputs(x, context)
        mask = None if keep is None else F.pad(keep, (1, 0), value=True)
        mixed = attention(query, key, value, mask=mask)
        merged: Tensor = self.output_norm(self.output(mixed.transpose(1, 2).flatten(2)))
        return merged

    def attention(self, x: Tensor, context: Tensor, keep: Tensor | None = None) -> Tensor:
        """Attention weights (B, h, Q, 1 + T), the null key first."""
        query, key, _ = self._attention_inputs(x, context)
        logits: Tensor = (query @ key.transpose(-1, -2)).float() * self.head_width**-0.5
        if keep is not None:
            logits = logits.masked_fill(
                ~F.pad(keep, (1, 0), value=True), torch.finfo(logits.dtype).min
            )
        return logits.softmax(dim=-1)


class QueryFormer(nn.Module):
    """One Q-Former block: self-attention, cross-attention, feed-forward (paper Eq. 1).

    Published: no residual connection anywhere. `residual` adds them round all three steps;
    `local_start` lets each query start from the context token at its own place.
    """

    def __init__(
        self,
        queries: int,
        width: int,
        *,
        heads: int = 8,
        cross_head_width: int = 64,
        mlp_ratio: float = 4.0,
        dropout: float = 0.01,
        causal: bool = True,
        residual: bool = False,
        local_start: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.local_start = local_start
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 1e-3)
        self.self_attention = MultiQueryAttention(width, heads, causal=causal)
        self.cross_attention = NullKeyCrossAttention(width, heads, cross_head_width)
        hidden = int(width * mlp_ratio)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def _join(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update if self.residual else update

    def forward(self, context: Tensor, keep: Tensor | None = None) -> Tensor:
        """context (B, T, D) -> query tokens (B, Q, D)."""
        x = self.queries.expand(context.shape[0], -1, -1)
        if self.local_start:
            x = x + context
        x = self._join(x, self.self_attention(x))
        x = self._join(x, self.cross_attention(x, context, keep))
        fed: Tensor = self.feed_forward(x)
        return self._join(x, fed)
