"""Image encoders that are trained: the networks of `backbones`, without the frozen shell.

Source: KQ-Former VQA-UAD specification, section 4.

B images, S side in pixels, L patches or positions, D width, h w their grid
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.backbones.cnn import stage_names
from scanomaly.backbones.folding import fold_batch_norms
from scanomaly.backbones.loading import Source, filled, find_source
from scanomaly.backbones.resample import resample_positions
from scanomaly.backbones.vit import VisionTransformerBackbone
from scanomaly.config.backbones import RANDOM_WEIGHTS, ClipConfig
from scanomaly.config.vqa import VisualConfig
from scanomaly.errors import ConfigError
from scanomaly.nn.depthwise import with_exact_depthwise
from scanomaly.nn.positions import sincos_table

UNUSED = ((0.5,) * 3, (0.5,) * 3)
"""Mean and std of the frozen shell; here images come normalised."""


class VisualEncoder(nn.Module, ABC):
    """Images (B, 3, S, S) in -1..1 to tokens (B, `tokens`, `width`), global ones first.

    arguments: what else than its configuration decides its sizes (`VisualConfig.arguments`).
    """

    def __init__(self, network: nn.Module, width: int, tokens: int | None) -> None:
        super().__init__()
        self.network: Any = network.requires_grad_(True)
        self.width = width
        self.tokens = tokens
        """None: they depend on the side of the images."""
        self.arguments: Mapping[str, Any] = {}
        self._frozen = False

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """The tokens."""

    def freeze(self) -> Self:
        """Keep the weights as they are, in eval mode from now on; batch norms are folded."""
        self._frozen = True
        self.requires_grad_(False).eval()
        fold_batch_norms(self)
        return self

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self._frozen)


class ViTEncoder(VisualEncoder):
    """A timm VisionTransformer: its final, normed tokens, the class token first."""

    def __init__(self, network: Any) -> None:
        tokens = network.num_prefix_tokens + network.patch_embed.num_patches
        super().__init__(network, network.embed_dim, tokens)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.network.forward_features(image)
        return tokens


class ClipEncoder(VisualEncoder):
    """CLIP's image tower in open_clip: its final, normed tokens, the class token first."""

    def __init__(self, network: Any) -> None:
        super().__init__(network, network.transformer.width, len(network.positional_embedding))
        self.network.proj = None  # into the space of texts, unused here

    def forward(self, image: Tensor) -> Tensor:
        found = self.network.forward_intermediates(
            image,
            indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return torch.cat(
            [found["image_intermediates_prefix"][-1], found["image_intermediates"][-1]], dim=1
        )


class CnnEncoder(VisualEncoder):
    """Positions of one map, in rows, behind their mean.

    network: image to map (B, D, h, w). upsample: side to which images are enlarged first.
    positions: add sines and cosines, so that tokens tell where they are.
    """

    def __init__(
        self,
        network: nn.Module,
        width: int,
        tokens: int | None,
        *,
        upsample: int | None = None,
        positions: bool = False,
    ) -> None:
        # with channels last, tokens need no copy and training takes a third less time
        network = network.to(memory_format=torch.channels_last)
        super().__init__(with_exact_depthwise(network), width, tokens)
        self.upsample = upsample
        self.positions = positions

    def forward(self, image: Tensor) -> Tensor:
        if self.upsample is not None:
            size = (self.upsample, self.upsample)
            image = F.interpolate(image, size, mode="bilinear", align_corners=True)
        found = self.network(image.contiguous(memory_format=torch.channels_last))  # (B, D, h, w)
        local = found.flatten(2).transpose(1, 2)  # (B, L, D)
        if self.positions:
            local = local + sincos_table(self.width, *found.shape[2:]).to(local)
        return torch.cat([local.mean(dim=1, keepdim=True), local], dim=1)


def build_encoder(config: VisualConfig) -> VisualEncoder:
    """The encoder that `config` describes, with its pretrained values; downloads nothing.

    Raises WeightsError or ConfigError, which say what to do, and ValueError for a side that the
    patches do not divide.
    """
    encoder = KINDS[config.kind](config)
    return encoder.freeze() if config.frozen else encoder


def _timm_source(config: VisualConfig) -> Source:
    if config.is_random:
        return Source(config.name, None, dict(config.arguments))
    return find_source(config)


def _vit(config: VisualConfig) -> VisualEncoder:
    source = _timm_source(config)
    shell = VisionTransformerBackbone(filled(source), *UNUSED).resampled(side=config.side)
    encoder = ViTEncoder(shell.network)
    encoder.arguments = source.arguments
    return encoder


def _cnn(config: VisualConfig) -> VisualEncoder:
    source = _timm_source(config)
    network = filled(source)
    stages = stage_names(network)
    if config.stage >= len(stages):
        raise ConfigError(
            f"{config.name} has stages 0 to {len(stages) - 1}, got visual.stage {config.stage}."
        )
    names = [name for names, _ in stages[: config.stage + 1] for name in names]
    information: Any = network.feature_info
    side = config.upsample or config.side
    grid = None if side is None else math.ceil(side / information[config.stage]["reduction"])
    tokens = None if grid is None else 1 + grid * grid
    width = stages[config.stage][1]
    encoder = CnnEncoder(
        _trunk(network, names),
        width,
        tokens,
        upsample=config.upsample,
        positions=config.positions,
    )
    encoder.arguments = source.arguments
    return encoder


def _trunk(network: nn.Module, names: list[str]) -> nn.Sequential:
    """The modules called so, in a row and under the same names; those of one container together."""
    parts: dict[str, list[nn.Module]] = defaultdict(list)
    for name in names:
        parts[name.partition(".")[0]].append(network.get_submodule(name))
    trunk = nn.Sequential()
    for name, modules in parts.items():
        of_container = any(full.startswith(f"{name}.") for full in names)
        trunk.add_module(name, nn.Sequential(*modules) if of_container else modules[0])
    return trunk


def _clip(config: VisualConfig) -> VisualEncoder:
    from scanomaly.backbones.clip import build_clip, clip_sizes

    clip = ClipConfig(name=config.name, weights=config.weights)
    sizes = config.arguments or clip_sizes(clip)
    network = _random_tower(sizes) if config.is_random else build_clip(clip).vision.network
    if config.side is not None:
        _resize(network, config.side)
    encoder = ClipEncoder(network)
    encoder.arguments = sizes
    return encoder


def _random_tower(sizes: Mapping[str, Any]) -> Any:
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # as every network of random weights
        return open_clip.CLIP(**sizes).visual


def _resize(network: Any, side: int) -> None:
    """Take images of another side. Raises ConfigError for one that patches do not divide."""
    patch = int(network.patch_size[0])
    if side % patch:
        raise ConfigError(f"visual.side {side} is not a multiple of the patch size {patch}.")
    grid = (side // patch, side // patch)
    table = resample_positions(network.positional_embedding.detach()[None], network.grid_size, grid)
    network.positional_embedding = nn.Parameter(table[0])
    network.grid_size, network.image_size = grid, (side, side)


KINDS: Mapping[str, Callable[[VisualConfig], VisualEncoder]] = {
    "vit": _vit,
    "cnn": _cnn,
    "clip": _clip,
}
"""`VisualConfig.kind` -> what builds it."""


def without_weights(config: VisualConfig, encoder: VisualEncoder) -> VisualConfig:
    """The configuration that builds an encoder of the same sizes from random values."""
    update = {"weights": RANDOM_WEIGHTS, "arguments": dict(encoder.arguments)}
    return config.model_copy(update=update)
