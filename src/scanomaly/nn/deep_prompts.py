"""IQE-CLIP's prompt tuning: tokens made from an image, and learned tokens in every text layer.

Source: arXiv 2506.10730 and the released code.

B images, S sentences, r class tokens, n learned tokens a layer, T text rows, W text width,
E width of text and image features
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROMPT_NORM_EPS = 1e-6

TokenHook = Callable[[int, Tensor], Tensor]
"""(block index, tokens) -> the tokens handed to the next block."""


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
    def run(self, sequence: Tensor, *, after_block: TokenHook | None) -> Tensor: ...
    def begin(self, sequence: Tensor, live: Tensor, *, after_block: TokenHook | None) -> Any: ...
    def resume(self, rows: Tensor, beginning: Any, /) -> Tensor: ...
    def finish(self, rows: Tensor, /) -> Tensor: ...


class PromptedText(nn.Module):
    """Text features of fixed sentences: class tokens take the place of the end token.

    Attention is causal. So the rows before the class tokens are the same for all images and run
    once, and nothing sees the rows behind them, which are cut off.
    """

    ids: Tensor

    def __init__(self, ids: Tensor, prompts: DeepPrompts | None) -> None:
        super().__init__()
        self.register_buffer("ids", ids, persistent=False)
        self.ends: tuple[int, ...] = tuple(ids.argmax(dim=1).tolist())
        """Row of each end token, whose id is the highest there is."""
        self.prompts = prompts
        self._kept: tuple[Any, Any] | None = None

    @property
    def learned(self) -> int:
        """Rows that learned tokens add."""
        return 0 if self.prompts is None else self.prompts.count

    def rows(self, class_tokens: int) -> int:
        """Rows the text tower needs, learned ones included; it has CLIP's 77."""
        return max(self.ends) + max(class_tokens, 1) + self.learned

    def forward(self, tower: TextTower, class_tokens: Tensor | None) -> Tensor:
        """class_tokens (B, r, W), or None: the end token stays. Returns unit vectors (B, S, E).

        Read at the last class token (or the end token). B = 1 without class tokens.
        """
        ends = torch.tensor(self.ends, device=self.ids.device)
        if class_tokens is None:
            whole = tower.run(self._first(tower, max(self.ends) + 1), after_block=self._hook)
            places = (ends + self.learned)[:, None, None]
            read = whole.take_along_dim(places, dim=1)[None, :, 0]  # (1, S, W)
        else:
            places = ends[:, None] + torch.arange(class_tokens.shape[1], device=ends.device)
            rows = class_tokens[:, None] + tower.positions[places]  # (B, S, r, W)
            read = tower.resume(rows, self._beginning(tower, ends))[:, :, -1]
        if self.prompts is not None:
            read = self.prompts.norm(read.float())
        return F.normalize(tower.finish(read).float(), dim=-1)

    def _first(self, tower: TextTower, count: int) -> Tensor:
        """The first `count` rows of all sentences, learned ones added: (S, n + count, W)."""
        rows = tower.embed(self.ids[:, :count]) + tower.positions[:count]
        return rows if self.prompts is None else self.prompts.insert(rows)

    @property
    def _hook(self) -> TokenHook | None:
        return None if self.prompts is None else self.prompts.after_block

    def _beginning(self, tower: TextTower, ends: Tensor) -> Any:
        """Of the rows before the class tokens; without gradients kept until a value changes."""
        values = (tower.positions, *self.parameters())
        if torch.is_grad_enabled() or any(value.is_inference() for value in values):
            self._kept = None
            return self._begun(tower, ends)
        state = [(value.data_ptr(), value._version) for value in values]
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self._begun(tower, ends))
        return self._kept[1]

    def _begun(self, tower: TextTower, ends: Tensor) -> Any:
        rows = self._first(tower, max(self.ends))
        live = torch.arange(rows.shape[1], device=ends.device) < (ends + self.learned)[:, None]
        return tower.begin(rows, live, after_block=self._hook)
