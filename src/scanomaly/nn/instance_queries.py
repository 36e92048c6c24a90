"""IQE-CLIP's query transformer: class queries gather an image's patches and its text features.

Source: arXiv 2506.10730 and the released code. Post-norm, as BERT.

B images, I levels, Q queries, T context tokens, D width, h heads, e head width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

NORM_EPS = 1e-12
"""BERT's."""


class AbsorbedAttention(nn.Module):
    """Multi-head attention of a few queries over many tokens, which are never projected.

    q . (K x) = (K' q) . x, and a weighted sum of V x is V times the sum: both projections act on
    the queries instead. Exact, and cheaper as long as there are more tokens than queries x heads.
    The key has no bias: it adds the same to all logits of a query, which softmax cannot see.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, Q, D), context (B, T, D) -> (B, Q, D)."""
        split = (self.heads, -1)
        query = self.query(x).unflatten(-1, split)  # (B, Q, h, e)
        key = self.key.weight.unflatten(0, split)  # (h, e, D)
        asked = torch.einsum("bqhe,hed->bqhd", query, key).flatten(1, 2)  # (B, Q h, D)
        logits = asked @ context.transpose(1, 2) * self.scale  # (B, Q h, T)
        shares = self.dropout(logits.softmax(dim=-1)).to(context.dtype)
        gathered = (shares @ context).unflatten(1, (-1, self.heads))  # (B, Q, h, D)
        value = self.value.weight.unflatten(0, split)  # (h, e, D)
        mixed = torch.einsum("bqhd,hed->bqhe", gathered, value)
        # with dropout, shares do not add up to 1
        total = shares.sum(dim=-1).unflatten(1, (-1, self.heads))[..., None]  # (B, Q, h, 1)
        mixed = mixed + total * self.value.bias.unflatten(0, split)
        joined: Tensor = self.norm(self.dropout(self.output(mixed.flatten(2))) + x)
        return joined


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between, residual, post-norm."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        joined: Tensor = self.norm(self.layers(x) + x)
        return joined


class Order(NamedTuple):
    """What queries attend to, in turn, and whether a feed-forward follows each or the last."""

    sources: tuple[str, ...]
    feed_each: bool


ORDERS: Mapping[str, Order] = {
    "code": Order(("self", "image", "text"), feed_each=False),
    "paper": Order(("self", "text", "image"), feed_each=True),
}


class QueryBlock(nn.Module):
    """One block; `sources` as in `Order`, without those that are switched off."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        sources: Sequence[str],
        feed_each: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.attention = nn.ModuleDict(
            {source: AbsorbedAttention(width, heads, dropout) for source in sources}
        )
        fed = self.sources if feed_each else self.sources[-1:]
        self.feed_forward = nn.ModuleDict(
            {source: FeedForward(width, hidden, dropout) for source in fed}
        )

    def forward(self, x: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """x (B, Q, D), image (B, L, D), text (B, 2, D) -> (B, Q, D)."""
        for source in self.sources:
            x = self.attention[source](x, {"self": x, "image": image, "text": text}[source])
            if source in self.feed_forward:
                x = self.feed_forward[source](x)
        return x


class InstanceQueries(nn.Module):
    """The instance-aware query module (IQM): the same queries, once for each level.

    order: a key of ORDERS. image, text: whether queries attend to them (paper, ablation).
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int = 4,
        heads: int = 8,
        hidden: int = 3072,
        dropout: float = 0.0,
        order: str = "code",
        image: bool = True,
        text: bool = True,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        attended = {"self": True, "image": image, "text": text}
        self.blocks = nn.ModuleList(
            QueryBlock(
                width,
                heads,
                hidden,
                sources=[source for source in ORDERS[order].sources if attended[source]],
                feed_each=ORDERS[order].feed_each,
                dropout=dropout,
            )
            for _ in range(depth)
        )

    def forward(self, queries: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """All levels at once: queries (B, Q, D), image (I, B, L, D), text (B, 2, D).

        Returns (I, B, Q, D). The batch of queries and text may be 1, for all images alike.
        """
        levels, count = image.shape[:2]
        x, text = (
            given.expand(levels, count, -1, -1).flatten(0, 1)
            for given in (self.dropout(self.norm(queries)), text)
        )
        patches = image.flatten(0, 1)  # (I B, L, D)
        for block in self.blocks:
            x = block(x, patches, text)
        by_level: Tensor = x.unflatten(0, (levels, count))
        return by_level
