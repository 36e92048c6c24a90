"""CLIP's text tower, open to prompts made of vectors, and CLIP's tokeniser.

B images, N sentences, T tokens of a sequence, W width, E width of the space shared with images,
P tokens of a beginning, r tokens behind it, h heads, e head width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from scanomaly.backbones.base import FrozenNetwork, TokenHook
from scanomaly.backbones.clip.blocks import Projected, attend, constants, project, require_plain
from scanomaly.config.backbones import ClipConfig
from scanomaly.errors import ConfigError


def tokenize(texts: Sequence[str]) -> Tensor:
    """CLIP's byte-pair ids (N, 77) int64 of texts, lower-cased.

    Start 49406, end 49407, then zeros; what is longer than 77 is cut before the end token.
    """
    from open_clip import tokenize as tokenize_with_open_clip

    ids: Tensor = tokenize_with_open_clip(list(texts))
    return ids


class Beginning(NamedTuple):
    """What the first rows of N sentences leave for all that may follow them.

    keys, values: (N, h, P, e) of each block. live: bool (N, P), False after a sentence's last row.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    live: Tensor


class ClipText(FrozenNetwork):
    """A frozen text tower, in steps: `embed` and `positions`, `run`, `finish`; or `encode`.

    Each token sees itself and those before it. So rows after the last one that is read need not
    be computed: `run` takes sequences of any T up to `context`. And rows that begin many sequences
    are computed once: `begin`, then `resume` with what differs.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = _checked(network)
        self.freeze()

    @classmethod
    def build(cls, config: ClipConfig) -> Self:
        """Raises WeightsError or ConfigError, which say what to do."""
        from scanomaly.backbones.clip.build import build_clip

        text = build_clip(config).text
        assert isinstance(text, cls)
        return text

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(self.network.transformer.resblocks)

    @property
    def width(self) -> int:
        return int(self.network.positional_embedding.shape[1])

    @property
    def embed_dim(self) -> int:
        """E, the width of features, which the image tower shares."""
        return int(self.network.text_projection.shape[1])

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return int(self.network.positional_embedding.shape[0])

    @property
    def positions(self) -> Tensor:
        """(context, W), to be added to embeddings."""
        table: Tensor = self.network.positional_embedding
        return table

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings (N, T, W) of `ids` (N, T), without positions."""
        embeddings: Tensor = self.network.token_embedding(ids)
        return embeddings

    def run(self, sequence: Tensor, *, after_block: TokenHook | None = None) -> Tensor:
        """All blocks over `sequence` (N, T, W), positions included: (N, T, W) before the norm.

        What `after_block` returns is what the next block sees; hooks run under the caller's
        autocast. Raises ValueError for more tokens than `context`.
        """
        return self._run(sequence, after_block, None)

    def _run(
        self, sequence: Tensor, after_block: TokenHook | None, kept: list[Projected] | None
    ) -> Tensor:
        """kept: where what every block's attention makes of its tokens is put, if anywhere."""
        self._check_context(sequence.shape[1])
        tokens = self._as_cast(sequence)
        for index, block in enumerate(self.network.transformer.resblocks):
            with self._own_precision(tokens):
                projected = project(block, tokens)
                tokens = attend(block, tokens, projected, causal=True)
            if kept is not None:
                kept.append(projected)
            if after_block is not None:
                tokens = self._as_cast(after_block(index, tokens))
        return tokens

    def begin(
        self, sequence: Tensor, live: Tensor, *, after_block: TokenHook | None = None
    ) -> Beginning:
        """What rows (N, P, W) of sentences leave behind. live: bool (N, P); others as in `run`."""
        kept: list[Projected] = []
        self._run(sequence, after_block, kept)
        return Beginning(tuple(x.key for x in kept), tuple(x.value for x in kept), live)

    def resume(self, rows: Tensor, beginning: Beginning) -> Tensor:
        """All blocks over rows (B, N, r, W) behind each beginning: (B, N, r, W) before the norm.

        Positions included. Raises ValueError for more tokens than `context`.
        """
        images, _, count, _ = rows.shape
        before = beginning.live[:, None, None].expand(-1, -1, count, -1)  # (N, 1, r, P)
        self._check_context(before.shape[-1] + count)
        behind = before.new_ones(count, count).tril().expand(len(before), 1, -1, -1)
        visible = torch.cat([before, behind], dim=-1).repeat(images, 1, 1, 1)  # (B N, 1, r, P + r)
        tokens = self._as_cast(rows).flatten(0, 1)
        blocks = self.network.transformer.resblocks
        for block, *past in zip(blocks, beginning.keys, beginning.values, strict=True):
            with self._own_precision(tokens):
                query, *own = project(block, tokens)
                joined = (
                    torch.cat([first.repeat(images, 1, 1, 1), second], dim=2)
                    for first, second in zip(past, own, strict=True)
                )
                tokens = attend(block, tokens, Projected(query, *joined), mask=visible)
        by_image: Tensor = tokens.unflatten(0, (images, -1))
        return by_image

    def _check_context(self, count: int) -> None:
        if count > self.context:
            raise ValueError(f"expected at most {self.context} tokens, got {count}; cut them.")

    def finish(self, rows: Tensor) -> Tensor:
        """Features (..., E) of rows (..., W) that `run` left where a sentence is read off."""
        with self._own_precision(rows):
            normed = self.network.ln_final(self._as_cast(rows))
            features: Tensor = normed @ self.network.text_projection
            return features

    def encode(self, ids: Tensor) -> Tensor:
        """Features (N, E) at the end token of `ids` (N, T), not normalised.

        Raises ValueError for a row without an end token, which is the highest id.
        """
        highest, ends = ids.max(dim=1)
        if not bool((highest == self.network.vocab_size - 1).all()):
            raise ValueError(
                f"expected an end token ({self.network.vocab_size - 1}) in every row of ids; "
                "make them with tokenize."
            )
        count = int(ends.max()) + 1
        tokens = self.run(self.embed(ids[:, :count]) + self.positions[:count])
        rows = tokens.take_along_dim(ends[:, None, None], dim=1)[:, 0]  # (N, W)
        return self.finish(rows)

    def _identity(self) -> Mapping[str, Tensor]:
        return {**super()._identity(), **constants(self.network.transformer.resblocks)}


def _checked(network: Any) -> Any:
    """Raises ConfigError for what is not a causal text tower read off at its end token."""
    from open_clip import CLIP

    causal = isinstance(network, CLIP) and network.attn_mask is not None
    if not causal or network.text_pool_type != "argmax":
        raise ConfigError(
            "expected open_clip's CLIP with a causal text tower that is read off at its end token, "
            f"got another {type(network).__name__}; choose an architecture such as ViT-L-14-336."
        )
    require_plain(network.transformer.resblocks)
    return network
