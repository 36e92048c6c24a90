"""MVFA written plainly from its specification: what `full_size_clip.py` compares scanomaly with.

Stock open_clip blocks and torch only, in fp32, one image after the other. As published, CLIP's own
parameters require gradients that nothing uses, every block is in the graph, and the memory bank is
normalised again for every image. Values come from scanomaly's towers and share their memory.

L patches, D width, E width of text features, R rows of the memory bank
"""

from collections.abc import Mapping, Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Mapping[str, Tensor]
Level = tuple[Tensor, Tensor]
"""Tokens (1, 1 + L, E) of both adapters at one level: segmentation, detection."""


def image_tower(architecture: str, values: State) -> Any:
    """open_clip's own, on values whose memory it shares; all of them require gradients.

    architecture: open_clip's name, such as ViT-L-14-336.
    """
    with torch.device("meta"):
        tower = open_clip.CLIP(**open_clip.get_model_config(architecture)).visual
    tower.load_state_dict(values, assign=True)
    return tower.eval()


def resampled_positions(tower: Any, side: int) -> Tensor:
    """The position table for square images of `side` pixels: (1 + L, D)."""
    table, old, new = tower.positional_embedding, tower.grid_size[0], side // tower.patch_size[0]
    grid = table[1:].unflatten(0, (old, old)).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).T]).detach()


def embedded(tower: Any, positions: Tensor, image: Tensor) -> Tensor:
    """What the first block takes: (1, 3, S, S) -> (1, 1 + L, D), the class token first."""
    patches = tower.conv1(image).flatten(2).transpose(1, 2)
    tokens = torch.cat([tower.class_embedding[None, None], patches], dim=1) + positions
    result: Tensor = tower.ln_pre(tokens)
    return result


def focal(maps: Tensor, mask: Tensor) -> Tensor:
    """Probabilities (1, 2, S, S), mask (1, 1, S, S)."""
    target = torch.cat([1 - mask, mask], dim=1).clamp(1e-5, 1 - 1e-5)
    hit = (target * maps).sum(dim=1) + 1e-5
    return (-((1 - hit) ** 2) * hit.log()).mean()


def dice(abnormal: Tensor, mask: Tensor) -> Tensor:
    overlap = (abnormal * mask).sum()
    return 1 - (2 * overlap + 1) / (abnormal.sum() + mask.sum() + 1)


def upsampled(logits: Tensor, side: int) -> Tensor:
    """(1, L, 2) -> probabilities (1, 2, side, side)."""
    grid = round(logits.shape[1] ** 0.5)
    maps = logits.transpose(1, 2).unflatten(2, (grid, grid))
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=True).softmax(dim=1)


def level_loss(logits: Sequence[Tensor], mask: Tensor, label: Tensor) -> Tensor:
    """Of two comparisons (1, L, 2): the one that draws the map, and the one that detects."""
    drawing, detecting = logits
    maps = upsampled(drawing, mask.shape[-1])
    score = detecting.softmax(dim=-1)[..., 1].mean(dim=1)
    loss = focal(maps, mask) + dice(maps[:, 1:], mask)
    return loss + F.binary_cross_entropy_with_logits(score, label)


def nearest(tokens: Tensor, memory: Tensor) -> Tensor:
    """Distance of each token (L, E) to its nearest row of the memory (R, E): (L,)."""
    tokens = tokens / tokens.norm(dim=1, keepdim=True).clamp_min(1e-8)
    memory = memory / memory.norm(dim=1, keepdim=True).clamp_min(1e-8)
    return (1 - memory @ tokens.T).min(dim=0).values


class PlainAdapter(nn.Module):
    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, width, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(1, T, D) -> the bottleneck (1, T, E), and the way back (1, T, D)."""
        middle = F.leaky_relu(self.down(x), 0.01)
        return middle, F.leaky_relu(self.up(middle), 0.01)


class PlainAdapters(nn.Module):
    """Two at each level."""

    def __init__(self, width: int, bottleneck: int, levels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                head: nn.ModuleList(PlainAdapter(width, bottleneck) for _ in range(levels))
                for head in ("seg", "det")
            }
        )

    def forward(self, level: int, x: Tensor) -> tuple[Tensor, Level]:
        """(1, T, D) -> what the next block takes, and the level's tokens."""
        segmenting, segmenting_back = self.heads["seg"][level](x)  # type: ignore[index]
        detecting, detecting_back = self.heads["det"][level](x)  # type: ignore[index]
        return 0.8 * x + 0.1 * segmenting_back + 0.1 * detecting_back, (segmenting, detecting)


class PlainMVFA(nn.Module):
    """One image tower with two adapters after each of `blocks`."""

    def __init__(self, tower: Any, blocks: Sequence[int], side: int) -> None:
        super().__init__()
        self.tower, self.blocks = tower, tuple(blocks)
        self.positions = resampled_positions(tower, side)
        self.adapters = PlainAdapters(tower.transformer.width, tower.output_dim, len(blocks))

    def levels(self, image: Tensor) -> list[Level]:
        """Of one image (1, 3, S, S)."""
        x, found = embedded(self.tower, self.positions, image), []
        for index, block in enumerate(self.tower.transformer.resblocks):
            x = block(x)
            if index in self.blocks:
                x, level = self.adapters(self.blocks.index(index), x)
                found.append(level)
        return found

    def loss(self, image: Tensor, mask: Tensor, label: Tensor, text: Tensor) -> Tensor:
        """Of one image: mask float (1, 1, S, S), label float (1,), text (E, 2)."""
        losses = []
        for level in self.levels(image):
            logits = [100 * F.normalize(tokens[:, 1:], dim=-1) @ text for tokens in level]
            losses.append(level_loss(logits, mask, label))
        return torch.stack(losses).sum()
