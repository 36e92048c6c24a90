"""Vision transformers through stock timm: DINO, DINOv2 (+registers), MAE, CLIP, ImageNet ViT.

Blocks are counted from 0. Features are a block's own output, before the final norm, with class
and register tokens apart.

B images, L patches, D width, P prefix tokens, h w patch grid
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from scanomaly.backbones.base import Backbone, TokenHook, digest
from scanomaly.backbones.loading import filled, find_source, normalisation
from scanomaly.backbones.resample import resample_kernel, resample_positions
from scanomaly.config.backbones import BackboneConfig
from scanomaly.errors import ConfigError
from scanomaly.records import Features


class VisionTransformerBackbone(Backbone):
    """A frozen timm VisionTransformer; only the blocks up to the last one asked for are run.

    One instance serves one patch size and one image side. `resampled` gives others, which share
    the blocks: a ViT-L at three patch sizes costs the memory of one.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean, std)
        self.network: Any = _checked(network)
        # Aliases of the weights' own tables: casting or moving the network leaves them as they are.
        self._native = Native(
            kernel=self.network.patch_embed.proj.weight.detach(),
            positions=None if self.network.pos_embed is None else self.network.pos_embed.detach(),
            grid=self.grid,
        )
        self._weights_digest: list[str] = []  # one list for all that share these weights
        self.freeze()

    @classmethod
    def build(cls, config: BackboneConfig) -> Self:
        """At the weights' own sizes, then resampled to the configuration's.

        Raises WeightsError or ConfigError, which say what to do, and ValueError for a side that
        is not a multiple of the patch size.
        """
        source = find_source(config)
        network = _checked(filled(source))
        backbone = cls(network, *normalisation(config, source, network))
        backbone.config = config.model_copy(update={"patch": None, "side": None})
        return backbone.resampled(patch=config.patch, side=config.side)

    @property
    def depth(self) -> int:
        return len(self.network.blocks)

    def width(self, block: int) -> int:
        self.block_index(block)
        return int(self.network.embed_dim)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.network.patch_embed.patch_size[0])

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (h, w) of an image."""
        rows, columns = self.network.patch_embed.grid_size
        return int(rows), int(columns)

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.grid[0] * self.patch

    def extract(
        self, image: Tensor, blocks: Sequence[int], *, after_block: TokenHook | None = None
    ) -> Features:
        """Tokens of `image` (B, 3, side, side) as (B, L, D) patches and (B, P, D) prefixes."""
        self._check_size(image.shape[-2], image.shape[-1])
        wanted = [self.block_index(block) for block in blocks]
        with self._own_precision(image):
            outputs = self._outputs(self.normalised(image), set(wanted), after_block)
        count = self.network.num_prefix_tokens
        return Features(
            patches=tuple(outputs[index][:, count:] for index in wanted),
            prefix=tuple(outputs[index][:, :count] for index in wanted),
            grids=(self.grid,) * len(wanted),
        )

    def _outputs(
        self, image: Tensor, wanted: set[int], after_block: TokenHook | None
    ) -> dict[int, Tensor]:
        """The tokens (B, P + L, D) that each wanted block puts out."""
        network = self.network
        # What timm's own forward does before its blocks; _pos_embed also adds the prefix tokens.
        tokens = network.norm_pre(network._pos_embed(network.patch_embed(image)))
        outputs: dict[int, Tensor] = {}
        for index in range(max(wanted, default=-1) + 1):
            tokens = network.blocks[index](tokens)
            if index in wanted:
                outputs[index] = tokens
            if after_block is not None:
                tokens = after_block(index, tokens)
        return outputs

    def _check_size(self, height: int, width: int) -> None:
        if (height, width) == (self.side, self.side):
            return
        remedy = f"resize to {self.side}x{self.side}"
        if height == width and height % self.patch == 0:
            remedy += f" or build the backbone with side {height}"
        raise ValueError(
            f"an image of {height}x{width} does not fit {self.grid[0]}x{self.grid[1]} patches of "
            f"{self.patch}: {remedy}."
        )

    def resampled(self, *, patch: int | None = None, side: int | None = None) -> Self:
        """The same network for another patch size or image side; the blocks are shared.

        Kernel and positions always come from the weights' own sizes, never from a resampled
        table. Cast every sharer or none: shared blocks have one precision.
        Raises ValueError for a side that is not a multiple of the patch size.
        """
        patch, side = patch or self.patch, side or self.side
        if side % patch:
            lower = side // patch * patch
            fitting = f"{lower} or {lower + patch}" if lower else str(patch)
            raise ValueError(
                f"image side {side} is not a multiple of the patch size {patch}; "
                f"resize to {fitting}."
            )
        if (patch, side) == (self.patch, self.side):
            return self
        twin = copy.deepcopy(self, {id(part): part for part in self._shared_parts()})
        twin._fingerprint = None
        twin._resize(patch, side)
        if twin.config is not None:
            twin.config = twin.config.model_copy(update={"patch": patch, "side": side})
        return twin.freeze()

    def _shared_parts(self) -> tuple[object, ...]:
        return (self.network.blocks, self._native, self._weights_digest)

    def _resize(self, patch: int, side: int) -> None:
        from timm.layers.patch_embed import PatchEmbed

        old: Any = self.network.patch_embed
        resized: Any = PatchEmbed(side, patch, old.proj.in_channels, old.proj.out_channels)
        kernel = resample_kernel(self._native.kernel, (patch, patch))
        resized.proj.weight = nn.Parameter(kernel.to(old.proj.weight.device))
        resized.proj.bias = old.proj.bias
        resized.norm = old.norm
        self.network.patch_embed = resized
        self.network.dynamic_img_size = False  # PatchEmbed now puts out a flat row of tokens
        if self._native.positions is not None:
            grid = (side // patch, side // patch)
            table = resample_positions(self._native.positions, self._native.grid, grid)
            self.network.pos_embed = nn.Parameter(table.to(old.proj.weight.device))
        for tensor in self._castable():  # the blocks are already in this precision
            tensor.data = tensor.data.to(self.precision)

    def fingerprint(self) -> str:
        """As in `Backbone`; weights that several sizes share are hashed once."""
        if self._fingerprint is None:
            if not self._weights_digest:
                self._weights_digest.append(self._digest_of_native_weights())
            identity = f"{self._weights_digest[0]} patch {self.patch} side {self.side}"
            self._fingerprint = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        return self._fingerprint

    def _digest_of_native_weights(self) -> str:
        tables = {"patch_embed.proj.weight": self._native.kernel}
        if self._native.positions is not None:
            tables["pos_embed"] = self._native.positions
        constants = {"mean": self.mean, "std": self.std}
        return digest({**self.network.state_dict(), **tables, **constants})


@dataclass(frozen=True)
class Native:
    """The two tables that depend on sizes, as the weights came.

    kernel: (D, C, h, w) in pixels. positions: (1, P + h * w, D) for `grid`, or None.
    """

    kernel: Tensor
    positions: Tensor | None
    grid: tuple[int, int]


def _checked(network: nn.Module) -> Any:
    """Raises ConfigError for what is not a plain timm VisionTransformer."""
    from timm.layers.patch_embed import PatchEmbed
    from timm.models import VisionTransformer

    if not isinstance(network, VisionTransformer):
        raise ConfigError(f"expected a timm VisionTransformer, got {type(network).__name__}.")
    embedding: object = network.patch_embed
    if not isinstance(embedding, PatchEmbed):
        raise ConfigError(
            f"expected plain patches, got {type(embedding).__name__}: "
            "hybrid transformers are not supported; choose a pure ViT."
        )
    return network
