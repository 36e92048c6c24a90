"""CLIP's text tower, open to prompts made of vectors, and CLIP's tokeniser.

N sentences, T tokens of a sequence, W width, E width of the space shared with images
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from scanomaly.backbones.base import FrozenNetwork, TokenHook
from scanomaly.backbones.clip.vision import block_constants
from scanomaly.config.backbones import ClipConfig
from scanomaly.errors import ConfigError


def tokenize(texts: Sequence[str]) -> Tensor:
    """CLIP's byte-pair ids (N, 77) int64 of texts, lower-cased.

    Start 49406, end 49407, then zeros; what is longer than 77 is cut before the end token.
    """
    from open_clip import tokenize as tokenize_with_open_clip

    ids: Tensor = tokenize_with_open_clip(list(texts))
    return ids


class ClipText(FrozenNetwork):
    """A frozen text tower, in steps: `embed` and `positions`, `run`, `finish`; or `encode`.

    Each token sees itself and those before it, so rows after the last one that is read need not
    be computed: `run` takes sequences of any T up to `context`.
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
        count = sequence.shape[1]
        if count > self.context:
            raise ValueError(f"expected at most {self.context} tokens, got {count}; cut them.")
        mask = self.network.attn_mask[:count, :count]
        tokens = self._as_cast(sequence)
        for index, block in enumerate(self.network.transformer.resblocks):
            with self._own_precision(tokens):
                tokens = block(tokens, attn_mask=mask)
            if after_block is not None:
                tokens = self._as_cast(after_block(index, tokens))
        return tokens

    def finish(self, rows: Tensor) -> Tensor:
        """Features (N, E) of the rows (N, W) that `run` left where a sentence is read off."""
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
        return {**super()._identity(), **block_constants(self.network.transformer.resblocks)}


def _checked(network: nn.Module) -> Any:
    """Raises ConfigError for what is not a causal text tower read off at its end token."""
    from open_clip import CLIP

    causal = isinstance(network, CLIP) and network.attn_mask is not None
    if not causal or network.text_pool_type != "argmax":
        raise ConfigError(
            "expected open_clip's CLIP with a causal text tower that is read off at its end token, "
            f"got another {type(network).__name__}; choose an architecture such as ViT-L-14-336."
        )
    return network
