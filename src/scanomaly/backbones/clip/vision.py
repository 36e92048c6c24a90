"""CLIP's image tower: an open_clip VisionTransformer, its blocks walked one by one.

B images, L patches, D width, h w patch grid, E width of the space shared with text
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from scanomaly.backbones.base import Backbone, TokenHook
from scanomaly.backbones.clip.blocks import attend, constants, project, require_plain
from scanomaly.backbones.resample import Grid, resample_positions
from scanomaly.config.backbones import ClipConfig
from scanomaly.errors import ConfigError
from scanomaly.records import Features


class ClipVision(Backbone):
    """A frozen image tower for images of any side; only the blocks that are needed are run.

    Blocks are counted from 0 (the papers' layer 6 is block 5). A side that is no multiple of the
    patch loses its last pixels: 240 at patch 14 gives 17x17.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        side: int | None = None,
    ) -> None:
        super().__init__(mean, std)
        self.network: Any = _checked(network)
        self.side: int = side or int(self.network.image_size[0])
        # An alias of the weights' own table: casting or moving the network leaves it as it is.
        self._native = self.network.positional_embedding.detach()
        self._tables: dict[tuple[Grid, torch.device, torch.dtype], Tensor] = {}
        self.grid_of(self.side, self.side)
        self.freeze()

    @classmethod
    def build(cls, config: ClipConfig) -> Self:
        """Raises WeightsError or ConfigError, which say what to do."""
        from scanomaly.backbones.clip.build import build_clip

        vision = build_clip(config).vision
        assert isinstance(vision, cls)
        return vision

    @property
    def depth(self) -> int:
        return len(self.network.transformer.resblocks)

    def width(self, block: int) -> int:
        self.block_index(block)
        return int(self.network.transformer.width)

    @property
    def embed_dim(self) -> int:
        """E, the width of `Features.pooled`, which the text tower shares."""
        return int(self.network.proj.shape[1])

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.network.patch_size[0])

    @property
    def grid(self) -> Grid:
        """Patches (h, w) of an image of `side`."""
        return self.grid_of(self.side, self.side)

    def grid_of(self, height: int, width: int) -> Grid:
        """Patches (h, w) of an image. Raises ValueError for one smaller than a patch."""
        if min(height, width) < self.patch:
            raise ValueError(
                f"an image of {height}x{width} is smaller than one patch of {self.patch}x"
                f"{self.patch}; resize to {self.network.image_size[0]}, the side of pretraining."
            )
        return height // self.patch, width // self.patch

    def extract(
        self, image: Tensor, blocks: Sequence[int], *, after_block: TokenHook | None = None
    ) -> Features:
        """Patch tokens (B, L, D) and class tokens (B, 1, D) of `image` (B, 3, H, W).

        `pooled` (B, E) is the projected class token, not normalised, if the last block was run;
        what `after_block` made of that block counts there. Hooks run under the caller's autocast.
        """
        grid = self.grid_of(image.shape[-2], image.shape[-1])
        return self.run(self.start(image), blocks, after_block=after_block, grid=grid)

    def start(self, image: Tensor) -> Tensor:
        """What block 0 takes: tokens (B, 1 + L, D) of `image`, the class token first."""
        network, grid = self.network, self.grid_of(image.shape[-2], image.shape[-1])
        with self._own_precision(image):
            patches = network.conv1(self.normalised(image)).flatten(2).transpose(1, 2)  # (B, L, D)
            first = network.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
            tokens = torch.cat([first, patches], dim=1)
            return self._as_cast(network.ln_pre(tokens + self._positions(grid, tokens)))

    def run(
        self,
        tokens: Tensor,
        blocks: Sequence[int],
        *,
        first: int = 0,
        after_block: TokenHook | None = None,
        grid: Grid | None = None,
    ) -> Features:
        """As `extract`, from tokens (B, 1 + L, D) that are the input of block `first`.

        grid: (h, w) of the patches, None = they are a square. Raises ValueError for a block
        before `first`, and for tokens that are not those of the grid.
        """
        wanted, first = [self.block_index(block) for block in blocks], self.block_index(first)
        if any(index < first for index in wanted):
            raise ValueError(f"blocks {wanted} were asked for, but the tokens enter block {first}.")
        rows, columns = grid or _square(tokens.shape[1] - 1)
        outputs: dict[int, Tensor] = {}
        tokens = self._as_cast(tokens)
        last = max(wanted, default=first - 1)
        for index in range(first, last + 1):
            with self._own_precision(tokens):
                block = self.network.transformer.resblocks[index]
                tokens = attend(block, tokens, project(block, tokens))
            outputs[index] = tokens
            if after_block is not None:
                tokens = self._as_cast(after_block(index, tokens))
        return Features(
            patches=tuple(outputs[index][:, 1:] for index in wanted),
            prefix=tuple(outputs[index][:, :1] for index in wanted),
            grids=((rows, columns),) * len(wanted),
            pooled=self._pooled(tokens) if last == self.depth - 1 and wanted else None,
        )

    def _pooled(self, tokens: Tensor) -> Tensor:
        with self._own_precision(tokens):
            pooled: Tensor = self.network.ln_post(tokens[:, 0]) @ self.network.proj
            return pooled

    def _positions(self, grid: Grid, like: Tensor) -> Tensor:
        """The position table (1, 1 + h * w, D) for `grid`; computed once for each."""
        key = (grid, like.device, like.dtype)
        if key not in self._tables:
            with torch.inference_mode(False):  # a prediction may come before training
                table = resample_positions(self._native[None], self.network.grid_size, grid)
                self._tables[key] = table.to(like.device, like.dtype)
        return self._tables[key]

    def _identity(self) -> Mapping[str, Tensor]:
        blocks = self.network.transformer.resblocks
        table = {"network.positional_embedding": self._native}
        return {**super()._identity(), **table, **constants(blocks)}


def _square(count: int) -> Grid:
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} patches are no square; give their grid (h, w).")
    return side, side


def _checked(network: nn.Module) -> Any:
    """Raises ConfigError for what is not open_clip's plain VisionTransformer."""
    from open_clip.transformer import VisionTransformer

    if not isinstance(network, VisionTransformer):
        raise ConfigError(
            f"expected an image tower that is open_clip's VisionTransformer, got "
            f"{type(network).__name__}; choose an architecture such as ViT-L-14-336."
        )
    if network.attn_pool is not None or network.pool_type != "tok":
        raise ConfigError(
            "expected an image tower whose class token is its summary, got one that pools its "
            "patches; choose an architecture such as ViT-L-14-336."
        )
    require_plain(network.transformer.resblocks)
    return network
