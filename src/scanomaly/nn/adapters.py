"""MVFA's adapters: bottlenecks between the blocks of a frozen transformer.

Source: CVPR 2024 (arXiv 2403.12570), section 3.1, and the released code. No biases anywhere.

B images, T tokens with the class token, D width, E bottleneck width (that of the text features)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.01


def leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, LEAKY_SLOPE)


def identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": leaky_relu,
    "relu": F.relu,
    "none": identity,
}


@dataclass(frozen=True, slots=True)
class AdapterForm:
    """The choices that all adapters of a network share."""

    activation: str = "leaky_relu"
    """After the first linear: the bottleneck that is compared with the text."""
    output_activation: str = "leaky_relu"
    """After the second linear."""
    share: float = 0.1
    """Of the adapters' output in what the next block sees."""
    share_each: bool = True
    """Whether every head's output takes that share (0.8, 0.1, 0.1) or all heads together."""
    feeds_back: bool = True
    """False: a projector, one linear that leaves the network's own tokens alone."""


class LevelAdapter(nn.Module):
    """One head at one level: tokens to their bottleneck, and back to the network's width.

    last: after the last block that is used the way back leads nowhere. Its weight is kept, as
    the published files have it, and never trained.
    """

    def __init__(self, width: int, bottleneck: int, form: AdapterForm, *, last: bool) -> None:
        super().__init__()
        self.activate = ACTIVATIONS[form.activation]
        self.activate_output = ACTIVATIONS[form.output_activation]
        self.down = nn.Linear(width, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, width, bias=False) if form.feeds_back else None
        if self.up is not None and last:
            self.up.requires_grad_(False)

    def bottleneck(self, tokens: Tensor, learns: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, E). learns: bool (B,), whose loss may change the weights."""
        return self.activate(_linear(tokens, self.down.weight, learns))

    def output(self, bottleneck: Tensor, learns: Tensor | None = None) -> Tensor:
        """(B, T, E) -> (B, T, D)."""
        if self.up is None:
            raise ValueError("a projector has no way back: expected form.feeds_back, got False.")
        return self.activate_output(_linear(bottleneck, self.up.weight, learns))


def _linear(x: Tensor, weight: Tensor, learns: Tensor | None) -> Tensor:
    """x @ weight.T; the weight gets no gradient from images that do not teach it."""
    if learns is None or bool(learns.all()):
        return F.linear(x, weight)
    untaught = F.linear(x, weight.detach())
    if not bool(learns.any()):
        return untaught
    return torch.where(learns[:, None, None], F.linear(x, weight), untaught)


class Adapters(nn.Module):
    """All levels of all heads, and how they come back into the network."""

    def __init__(
        self,
        width: int,
        bottleneck: int,
        levels: int,
        heads: Sequence[str],
        form: AdapterForm | None = None,
    ) -> None:
        super().__init__()
        self.form = form or AdapterForm()
        self.heads = nn.ModuleDict(
            {
                head: nn.ModuleList(
                    LevelAdapter(width, bottleneck, self.form, last=level == levels - 1)
                    for level in range(levels)
                )
                for head in heads
            }
        )

    def forward(
        self, level: int, tokens: Tensor, learns: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """tokens (B, T, D) -> the next block's tokens (B, T, D), and each head's (B, T, E).

        learns: head -> bool (B,), the images whose loss may change it; others may change it all.
        """
        taught = learns or {}
        found: dict[str, Tensor] = {}
        outputs: list[Tensor] = []
        for head, adapters in self.heads.items():
            adapter = adapters[level]  # type: ignore[index]
            found[head] = adapter.bottleneck(tokens, taught.get(head))
            if self._comes_back(level):
                outputs.append(adapter.output(found[head], taught.get(head)))
        return self._mixed(tokens, outputs), found

    def _comes_back(self, level: int) -> bool:
        levels = len(next(iter(self.heads.values())))  # type: ignore[arg-type]
        return self.form.feeds_back and level < levels - 1

    def _mixed(self, tokens: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        if not outputs:
            return tokens
        total = torch.stack(list(outputs)).sum(dim=0)
        each = self.form.share if self.form.share_each else self.form.share / len(outputs)
        mixed = (1 - each * len(outputs)) * tokens + each * total
        return mixed.to(tokens.dtype)
