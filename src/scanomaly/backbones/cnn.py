"""Convolutional backbones through timm: the offline default (EfficientNet-Lite0) and ResNets.

A "block" is a stage, counted from 0: strides 2, 4, 8, 16 and 32 to the image. There are no
prefix tokens, and images may have any side.

B images, L positions, D channels, h w grid, H W pixels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from scanomaly.backbones.base import Backbone, TokenHook
from scanomaly.backbones.folding import fold_batch_norms
from scanomaly.backbones.loading import filled, find_source, normalisation
from scanomaly.config.backbones import BackboneConfig
from scanomaly.errors import ConfigError
from scanomaly.nn.depthwise import with_exact_depthwise
from scanomaly.records import Features

TRUNKS: Mapping[str, tuple[str, ...]] = {
    "ResNet": ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    "EfficientNet": ("conv_stem", "bn1", *(f"blocks.{index}" for index in range(7))),
}
"""timm class -> the modules before its head, in the order in which they run."""


class ConvBackbone(Backbone):
    """A frozen CNN cut into stages; only the stages up to the last one asked for are run."""

    def __init__(
        self,
        stages: Sequence[nn.Module],
        widths: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(mean, std)
        if len(stages) != len(widths):
            raise ValueError(f"expected a width for each of {len(stages)} stages, got {widths}.")
        # With channels last, tokens need no copy and the offline default runs a third faster.
        self.stages = nn.ModuleList(stages).to(memory_format=torch.channels_last)
        self.widths = tuple(widths)
        self.freeze()

    @classmethod
    def build(cls, config: BackboneConfig) -> Self:
        """Raises WeightsError or ConfigError, which say what to do."""
        if config.patch is not None:
            raise ConfigError(f"{config.name} is a CNN and has no patches; leave patch out.")
        source = find_source(config)
        network = filled(source)
        stages, widths = stages_of(network)
        backbone = cls(stages, widths, *normalisation(config, source, network))
        backbone.config = config
        backbone.fingerprint()  # of the weights as they came
        fold_batch_norms(backbone)
        with_exact_depthwise(backbone)
        backbone.freeze()
        return backbone

    @property
    def depth(self) -> int:
        return len(self.stages)

    def width(self, block: int) -> int:
        return self.widths[self.block_index(block)]

    def extract(
        self, image: Tensor, blocks: Sequence[int], *, after_block: TokenHook | None = None
    ) -> Features:
        """Positions of each stage's map as tokens (B, h * w, D); prefixes are (B, 0, D)."""
        wanted = [self.block_index(block) for block in blocks]
        with self._own_precision(image):
            start = self.normalised(image).contiguous(memory_format=torch.channels_last)
            maps = self._maps(start, max(wanted, default=-1), after_block)
        taken = [maps[index] for index in wanted]
        patches = tuple(_tokens(stage) for stage in taken)
        return Features(
            patches,
            prefix=tuple(tokens[:, :0] for tokens in patches),
            grids=tuple((stage.shape[2], stage.shape[3]) for stage in taken),
        )

    def _maps(self, current: Tensor, last: int, after_block: TokenHook | None) -> list[Tensor]:
        """The output (B, D, h, w) of each stage up to `last`."""
        maps: list[Tensor] = []
        for index in range(last + 1):
            current = self.stages[index](current)
            maps.append(current)
            if after_block is not None:
                tokens = after_block(index, _tokens(current))
                current = tokens.transpose(1, 2).reshape_as(current)
        return maps


def _tokens(stage: Tensor) -> Tensor:
    return stage.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h * w, D)


def stages_of(network: nn.Module) -> tuple[list[nn.Module], list[int]]:
    """A timm CNN's stages, without the head, and their channels.

    Raises ConfigError for a class whose trunk is not listed in TRUNKS.
    """
    stages = stage_names(network)
    modules = [nn.Sequential(*map(network.get_submodule, names)) for names, _ in stages]
    return list(modules), [width for _, width in stages]


def stage_names(network: nn.Module) -> list[tuple[list[str], int]]:
    """As `stages_of`: the names of each stage's modules, and its channels."""
    kind = type(network).__name__
    if kind not in TRUNKS:
        raise ConfigError(f"expected one of {', '.join(TRUNKS)}, got a timm {kind}.")
    stages: list[tuple[list[str], int]] = []
    pending: list[str] = []
    information: Any = network.feature_info
    widths = {stage["module"]: stage["num_chs"] for stage in information}
    for name in TRUNKS[kind]:
        pending.append(name)
        if name in widths:
            stages.append((pending, widths[name]))
            pending = []
    return stages
