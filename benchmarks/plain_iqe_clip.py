"""IQE-CLIP written plainly from its specification: what `full_size_clip.py` compares it with.

Stock open_clip blocks and torch only, in fp32, one image, sentence and level after the other: the
frozen image tower runs at every step, all 77 rows of a sentence run, and the query transformer
projects every patch to keys and values. The constructor takes sizes; names of trained tensors are
scanomaly's, so that values can be copied over.

L patches, D width, E width of text and image features, r class tokens, T tokens attended to
"""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plain_mvfa import State, embedded, level_loss, resampled_positions

Logits = tuple[Tensor, Tensor]
"""Of one level (1, L, 2): patches against text, patches against queries."""


def text_tower(architecture: str, values: State) -> Any:
    """open_clip's CLIP without its image tower, on values whose memory it shares."""
    with torch.device("meta"):
        network = open_clip.CLIP(**open_clip.get_model_config(architecture))
    del network.visual
    network.load_state_dict(values, assign=True)
    rows = network.context_length
    network.attn_mask = torch.full((rows, rows), -torch.inf).triu(1)
    return network.eval()


class PlainClassTokens(nn.Module):
    """Learned tokens plus a convolution over the image's class feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.empty(1, 2, width))
        self.condition = nn.Sequential(nn.Unflatten(1, (1, width)), nn.Conv1d(1, 2, 3, padding=1))

    def forward(self, feature: Tensor) -> Tensor:
        """(1, E) -> (1, 2, E)."""
        tokens: Tensor = self.learned + self.condition(feature)
        return tokens


class PlainPrompts(nn.Module):
    """One learned row behind the start token, a new one in each text layer."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(layers, 1, width))
        self.projection = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (1, 2, E), context (1, T, E) -> (1, 2, E)."""
        query, key, value = (
            rows.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for rows in (self.query(x), self.key(context), self.value(context))
        )
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        mixed = (scores.softmax(dim=3) @ value).transpose(1, 2).flatten(2)
        result: Tensor = self.norm(self.output(mixed) + x)
        return result


class PlainFeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.layers(x) + x)
        return result


class PlainBlock(nn.Module):
    """Self, image, text, feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {source: PlainAttention(width, heads) for source in ("self", "image", "text")}
        )
        self.feed_forward = nn.ModuleDict({"text": PlainFeedForward(width, hidden)})

    def forward(self, x: Tensor, image: Tensor, text: Tensor) -> Tensor:
        x = self.attention["self"](x, x)
        x = self.attention["image"](x, image)
        x = self.attention["text"](x, text)
        result: Tensor = self.feed_forward["text"](x)
        return result


class PlainQueries(nn.Module):
    """The query transformer (IQM) of one image and level."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(PlainBlock(width, heads, hidden) for _ in range(depth))

    def forward(self, x: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """x (1, 2, E), image (1, L, E), text (1, 2, E) -> (1, 2, E)."""
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, image, text)
        return x


class PlainIqeClip(nn.Module):
    """Both towers are frozen here. ids: (2, 77), the normal and the abnormal sentence."""

    def __init__(
        self,
        tower: Any,
        text: Any,
        ids: Tensor,
        *,
        blocks: Sequence[int],
        side: int,
        queries: PlainQueries,
    ) -> None:
        super().__init__()
        self.tower, self.text = tower.requires_grad_(False), text.requires_grad_(False)
        self.ids, self.blocks = ids, tuple(blocks)
        self.positions = resampled_positions(tower, side)
        width = tower.output_dim
        self.levels = nn.ModuleList(nn.Linear(tower.transformer.width, width) for _ in blocks)
        self.class_tokens, self.class_queries = PlainClassTokens(width), PlainClassTokens(width)
        prompts = PlainPrompts(width, len(text.transformer.resblocks))
        self.prompted_text = nn.ModuleDict({"prompts": prompts})
        self.instance_queries = queries
        self.log_temperature = nn.Parameter(torch.tensor(0.0))

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Take the tensors that scanomaly trains; key biases, which change nothing, become 0."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith(".key.bias"):
                    parameter.zero_()
                elif parameter.requires_grad:
                    parameter.copy_(state[name])

    @torch.no_grad()
    def seen(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Class feature (1, E) of an image (1, 3, S, S), and patches (1, L, D) of each level."""
        tower = self.tower
        x, found = embedded(tower, self.positions, image), []
        for index, block in enumerate(tower.transformer.resblocks):
            x = block(x)
            if index in self.blocks:
                found.append(x[:, 1:])
        return tower.ln_post(x[:, 0]) @ tower.proj, found

    def sentence(self, ids: Tensor, added: Tensor) -> Tensor:
        """Text feature (E,), unit, of ids (77,) with class tokens (r, E) in place of the end."""
        tower = self.text
        prompts: Any = self.prompted_text["prompts"]
        end, count = int(ids.argmax()), len(added)
        words = tower.token_embedding(ids)
        rows = torch.cat([words[:end], added, words[end + 1 : len(ids) - count + 1]])
        rows = rows + tower.positional_embedding
        for index, block in enumerate(tower.transformer.resblocks):
            rest = rows[1:-1] if index == 0 else rows[2:]  # the last row is cut off for the first
            learned = prompts.projection(prompts.tokens[index])
            rows = torch.cat([rows[:1], learned, rest])
            rows = block(rows[None], attn_mask=tower.attn_mask)[0]
        rows = tower.ln_final(prompts.norm(torch.cat([rows[:1], rows[2:]])))
        return F.normalize(rows[end + count - 1] @ tower.text_projection, dim=0)

    def text_features(self, feature: Tensor) -> Tensor:
        """Class feature (1, E) -> (1, 2, E), normal and abnormal."""
        added = self.class_tokens(feature)[0]
        return torch.stack([self.sentence(ids, added) for ids in self.ids])[None]

    def compare(self, feature: Tensor, patches: Sequence[Tensor]) -> list[Logits]:
        """Both branches of every level."""
        text, start = self.text_features(feature), self.class_queries(feature)
        found = []
        for linear, tokens in zip(self.levels, patches, strict=True):
            level = linear(tokens)
            query = F.normalize(self.instance_queries(start, level, text), dim=-1)
            level = F.normalize(level, dim=-1)
            temperature = self.log_temperature.exp()
            found.append((temperature * level @ text.mT, level @ query.mT))
        return found

    def loss(self, image: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        """Of one image (1, 3, S, S): mask float (1, 1, S, S), label float (1,)."""
        losses = [
            level_loss((logits, logits), mask, label)
            for level in self.compare(*self.seen(image))
            for logits in level
        ]
        return torch.stack(losses).sum()
