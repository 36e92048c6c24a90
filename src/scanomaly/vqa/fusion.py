"""Three images to the memory that the language decoder reads.

Source: KQ-Former VQA-UAD specification, sections 3 (slots, channel images), 5 and 6.

B triples, S side in pixels, L tokens of an image, N tokens of the memory, D width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.config.vqa import Fusion, VqaConfig
from scanomaly.errors import ConfigError
from scanomaly.vqa.images import Images

if TYPE_CHECKING:
    from transformers import BertModel

GREY = (0.2989, 0.587, 0.114)
"""Of the first, second and third channel, whatever their colours."""
SLOTS = ("image", "anomaly_map", "reconstruction", "blank")


def pictures(images: Images, slots: Sequence[str], fusion: Fusion) -> dict[str, Tensor]:
    """What the encoder sees: each picture that `slots` name once, or for channel one of the three.

    images: (B, 3, S, S) each, normalised; so is the result. A blank one is zeros.
    """
    named = dict(zip(SLOTS, (*images, torch.zeros_like(images[0])), strict=True))
    if fusion != "channel":
        return {slot: named[slot] for slot in dict.fromkeys(slots)}
    weights = images[0].new_tensor(GREY).view(1, 3, 1, 1)
    return {"channel": torch.stack([(named[s] * weights).sum(dim=1) for s in slots], dim=1)}


def _mean(sets: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(sets)).mean(dim=0)


def _in_a_row(sets: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(sets), dim=1)


def _only(sets: Sequence[Tensor]) -> Tensor:
    (joined,) = sets
    return joined


JOINS: Mapping[Fusion, Callable[[Sequence[Tensor]], Tensor]] = {
    "average": _mean,
    "concat": _in_a_row,
    "channel": _only,
}
"""Sets of tokens (B, N, D) to one; for channel there is only one."""


class ChannelReduction(nn.Conv1d):
    """Tokens (B, N, C) to (B, N, D), each by itself."""

    def __init__(self, width: int, to: int) -> None:
        super().__init__(width, to, kernel_size=1)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens.transpose(1, 2)).transpose(1, 2)


class TokenHead(nn.Sequential):
    """Each token (B, N, D) through two layers; norms are over batch and tokens."""

    def __init__(self, width: int, hidden: int, to: int) -> None:
        super().__init__(
            nn.Conv1d(width, hidden, kernel_size=1),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, to, kernel_size=1),
            nn.BatchNorm1d(to, affine=False),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens.transpose(1, 2)
        for layer in self:
            tokens = layer(tokens)
        return tokens.transpose(1, 2)


class KqFormer(nn.Module):
    """Queries that read visual tokens: BERT on zeros, whose position embeddings tell them apart."""

    def __init__(self, model: BertModel, queries: int, *, learned: bool = False) -> None:
        super().__init__()
        self.model = model
        self.count = queries
        self.width = model.config.hidden_size
        self.queries: nn.Parameter | None = None
        if learned:
            drawn = torch.randn(1, queries, self.width) * model.config.initializer_range
            self.queries = nn.Parameter(drawn)

    def forward(self, visual: Tensor) -> Tensor:
        """visual: (B, L, D). Returns (B, queries, D)."""
        shape = (len(visual), self.count, self.width)
        queries = visual.new_zeros(shape) if self.queries is None else self.queries.expand(shape)
        return self.read(visual, queries)

    def read(self, visual: Tensor, queries: Tensor) -> Tensor:
        """The same for queries (B, N, D), to which positions are added."""
        count = queries.shape[1]
        every = torch.ones(len(visual), 1, count, count, dtype=torch.bool, device=visual.device)
        found: Tensor = self.model(  # without `every` each query would see only those before it
            inputs_embeds=queries, attention_mask=every, encoder_hidden_states=visual
        ).last_hidden_state
        return found


class MultiImageFusion(nn.Module):
    """The baseline: joined tokens of unit length.

    mix: of the joined tokens (B, 3 L, C) to (B, N, C), for concat. reduce: C channels to D.
    """

    def __init__(self, fusion: Fusion, reduce: nn.Module, mix: nn.Module) -> None:
        super().__init__()
        self.join = JOINS[fusion]
        self.mix = mix
        self.reduce = reduce

    def forward(self, sets: Sequence[Tensor]) -> Tensor:
        """sets: (B, L, C) each. Returns (B, N, D)."""
        return F.normalize(self.reduce(self.mix(self.join(sets))), dim=-1)


class KqFormerFusion(nn.Module):
    """KQ-Former: the same queries read each set; what they found is joined.

    head: behind concat.
    """

    def __init__(
        self, fusion: Fusion, reduce: nn.Module, former: KqFormer, head: nn.Module
    ) -> None:
        super().__init__()
        self.join = JOINS[fusion]
        self.reduce = reduce
        self.former = former
        self.head = head

    def forward(self, sets: Sequence[Tensor]) -> Tensor:
        """sets: (B, L, C) each. Returns (B, N, D)."""
        each = self.former(self.reduce(torch.cat(list(sets)))).chunk(len(sets))
        found: Tensor = self.head(self.join(each))
        return found


def build_fusion(config: VqaConfig, channels: int, tokens: int | None, width: int) -> nn.Module:
    """What `config` says, for `tokens` of an image of `channels` and a decoder of `width`.

    Raises WeightsError or ConfigError, which say what to do.
    """
    reduce = nn.Identity() if channels == width else ChannelReduction(channels, width)
    if config.former is None:
        return MultiImageFusion(config.fusion, reduce, _mix(config, tokens))
    from scanomaly.backbones.language import build_bert

    model = build_bert(config.former)
    if model.config.hidden_size != width:
        raise ConfigError(
            f"the former's width {model.config.hidden_size} is not the decoder's {width}, which "
            "reads its tokens; set former.width or decoder.width, or take other weights."
        )
    former = KqFormer(model, config.former.queries, learned=config.former.learned_queries)
    concat = config.fusion == "concat"
    head = TokenHead(width, config.former.head_hidden, width) if concat else nn.Identity()
    return KqFormerFusion(config.fusion, reduce, former, head)


def _mix(config: VqaConfig, tokens: int | None) -> nn.Module:
    """For concat two linear maps over the token axis, without an activation (released code)."""
    if config.fusion != "concat":
        return nn.Identity()
    if tokens is None:
        raise ConfigError(
            "concat of plain tokens must know how many there are; set visual.side or "
            "visual.upsample to the side of the images."
        )
    return nn.Sequential(
        nn.Conv1d(3 * tokens, config.memory_hidden, kernel_size=1),
        nn.Conv1d(config.memory_hidden, config.memory_tokens, kernel_size=1),
    )
