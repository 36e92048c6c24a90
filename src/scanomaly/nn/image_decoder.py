"""Query tokens -> image (QFAE, paper section 3.1)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from scanomaly.nn.attention import attention
from scanomaly.nn.positions import sincos_table, unpatchify

REGISTERS = 4


class SelfAttention(Attention):
    """timm's own parameters, without its extras."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        joined = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim))
        split = joined.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attention(*split, mask=attn_mask, causal=is_causal)
        found: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return found


class ImageDecoder(nn.Module):
    """A small pre-norm vision transformer that predicts the pixels of each patch.

    Sequence inside: [4 registers, class token, patches]; only patches carry positions.
    """

    def __init__(
        self,
        input_width: int,
        grid: tuple[int, int],
        patch: int,
        *,
        width: int = 768,
        depth: int = 6,
        heads: int = 12,
        channels: int = 3,
        norm_eps: float = 1e-5,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=norm_eps)
        kinds: Any = {"norm_layer": norm, "attn_layer": SelfAttention}
        self.grid = grid
        self.patch = patch
        self.channels = channels
        self.embed = nn.Linear(input_width, width)
        self.register_tokens = nn.Parameter(torch.randn(1, REGISTERS, width) * 1e-3)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 1e-3)
        self.register_buffer("positions", sincos_table(width, *grid)[None], persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, qkv_bias=True, **kinds) for _ in range(depth)
        )
        self.norm = norm(width)
        self.to_pixels = nn.Linear(width, patch * patch * channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, input width) -> image (B, 3, H, W); no output activation."""
        x = self.embed(tokens) + self.positions
        batch = x.shape[0]
        prefix = (self.register_tokens, self.class_token)
        x = torch.cat([*(p.expand(batch, -1, -1) for p in prefix), x], dim=1)
        for block in self.blocks:
            x = block(x)
        pixels = self.to_pixels(self.norm(x))[:, REGISTERS + 1 :]
        image = unpatchify(pixels, self.patch, self.grid)
        return image.expand(-1, 3, -1, -1) if self.channels == 1 else image
