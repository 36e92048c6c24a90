"""IQE-CLIP's prompt tuning: tokens made from an image, and learned tokens in every text layer.

Source: arXiv 2506.10730 and the released code.

B images, S sentences, r class tokens, n learned tokens a layer, T text rows, W text width,
E width of text and image features
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROMPT_NORM_EPS = 1e-6


def _convolution(width: int, count: int) -> nn.Module:
    """The released code: a convolution over the feature as a signal of one channel."""
    return nn.Sequential(nn.Unflatten(1, (1, width)), nn.Conv1d(1, count, 3, padding="same"))


def _multilayer_perceptron(width: int, count: int) -> nn.Module:
    """The paper's words; its sizes are our reading."""
    return nn.Sequential(
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, count * width),
        nn.Unflatten(1, (count, width)),
    )


CONDITIONS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "convolution": _convolution,
    "mlp": _multilayer_perceptron,
}
"""(width, tokens) -> image features (B, W) to tokens (B, tokens, W)."""


class ClassTokens(nn.Module):
    """Learned tokens, and what the class feature of an image adds to them.

    condition: a key of CONDITIONS, or None: the same tokens for every image.
    """

    def __init__(self, width: int, count: int, condition: str | None = "convolution") -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.empty(1, count, width))
        nn.init.trunc_normal_(self.learned, std=1.0, a=-2.0, b=2.0)
        self.condition = None if condition is None else CONDITIONS[condition](width, count)

    def forward(self, pooled: Tensor) -> Tensor:
        """Class features (B, W) -> (B, count, W), or (1, count, W) without a condition."""
        if self.condition is None:
            return self.learned
        tokens: Tensor = self.learned + self.condition(pooled)
        return tokens


class DeepPrompts(nn.Module):
    """`count` learned rows that stand behind the start token, new ones in each text layer."""

    def __init__(self, width: int, count: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(layers, count, width).uniform_(-1, 1))
        self.projection = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.projection.weight, mode="fan_out")
        self.norm = nn.LayerNorm(width, eps=PROMPT_NORM_EPS)

    @property
    def count(self) -> int:
        return self.tokens.shape[1]

    def insert(self, sequence: Tensor) -> Tensor:
        """Sentences with positions (N, T, W) -> (N, T + n, W), what the first layer sees."""
        return torch.cat([sequence[:, :1], self._rows(0, sequence), sequence[:, 1:]], dim=1)

    def after_block(self, block: int, sequence: Tensor) -> Tensor:
        """Own learned rows for the layer after `block`; the last layer's output stays as it is."""
        if block + 1 >= self.tokens.shape[0]:
            return sequence
        rest = sequence[:, 1 + self.count :]
        return torch.cat([sequence[:, :1], self._rows(block + 1, sequence), rest], dim=1)

    def _rows(self, layer: int, like: Tensor) -> Tensor:
        rows: Tensor = self.projection(self.tokens[layer]).to(like.dtype)
        return rows.expand(like.shape[0], -1, -1)


class TextTower(Protocol):
    """What is asked of CLIP's frozen text side."""

    @property
    def positions(self) -> Tensor: ...
    def embed(self, ids: Tensor, /) -> Tensor: ...
    def run(
        self, sequence: Tensor, *, after_block: Callable[[int, Tensor], Tensor] | None
    ) -> Tensor: ...
    def finish(self, rows: Tensor, /) -> Tensor: ...


class PromptedText(nn.Module):
    """Text features of fixed sentences: class tokens take the place of the end token.

    Rows after the last class token are cut off: attention is causal, so nothing sees them.
    """

    ids: Tensor

    def __init__(self, ids: Tensor, prompts: DeepPrompts | None) -> None:
        super().__init__()
        self.register_buffer("ids", ids, persistent=False)
        self.ends: tuple[int, ...] = tuple(ids.argmax(dim=1).tolist())
        """Row of each end token, whose id is the highest there is."""
        self.prompts = prompts

    def rows(self, class_tokens: int) -> int:
        """Rows the text tower needs, learned ones included; it has CLIP's 77."""
        learned = 0 if self.prompts is None else self.prompts.count
        return max(self.ends) + max(class_tokens, 1) + learned

    def forward(self, tower: TextTower, class_tokens: Tensor | None) -> Tensor:
        """class_tokens (B, r, W), or None: the end token stays. Returns unit vectors (B, S, E).

        Read at the last class token (or the end token). B = 1 without class tokens.
        """
        sentences, last = self._sentences(tower.embed(self.ids), class_tokens)
        count = sentences.shape[0]
        sequence = (sentences + tower.positions[: sentences.shape[2]]).flatten(0, 1)
        if self.prompts is None:
            rows = _picked(tower.run(sequence, after_block=None), last, count)
        else:
            hook = self.prompts.after_block
            found = tower.run(self.prompts.insert(sequence), after_block=hook)
            rows = self.prompts.norm(_picked(found, last + self.prompts.count, count).float())
        features = F.normalize(tower.finish(rows).float(), dim=-1)  # (B S, E)
        by_image: Tensor = features.unflatten(0, (count, -1))
        return by_image

    def _sentences(self, embedded: Tensor, class_tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows (B, S, T, W) and the index (S,) of each sentence's last live one."""
        added = embedded[:1, :0] if class_tokens is None else class_tokens.to(embedded.dtype)
        keep = 1 if class_tokens is None else 0
        kept = [sentence[: end + keep] for sentence, end in zip(embedded, self.ends, strict=True)]
        live = [len(words) + added.shape[1] for words in kept]
        padded = [
            F.pad(_appended(words, added), (0, 0, 0, max(live) - length))
            for words, length in zip(kept, live, strict=True)
        ]
        return torch.stack(padded, dim=1), torch.tensor(live, device=embedded.device) - 1


def _appended(words: Tensor, added: Tensor) -> Tensor:
    """words (T, W), added (B, r, W) -> (B, T + r, W)."""
    return torch.cat([words.expand(added.shape[0], -1, -1), added], dim=1)


def _picked(sequence: Tensor, last: Tensor, count: int) -> Tensor:
    """Row `last` (S,) of each sentence: (B S, T, W) -> (B S, W)."""
    return sequence[torch.arange(sequence.shape[0], device=last.device), last.repeat(count)]
