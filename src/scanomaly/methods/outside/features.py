"""Our frozen networks with the faces that anomalib's models expect.

B images, D width, h w patch grid, L patches, P prefix tokens, N windows
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scanomaly.backbones import build_backbone
from scanomaly.backbones.base import Backbone
from scanomaly.backbones.clip import Clip, ClipVision
from scanomaly.backbones.cnn import ConvBackbone, stages_of
from scanomaly.backbones.loading import create, find_source
from scanomaly.config.backbones import BackboneConfig, ClipConfig
from scanomaly.errors import ConfigError
from scanomaly.nn.depthwise import with_exact_depthwise
from scanomaly.records import Features


def build_frozen(config: BackboneConfig, blocks: Sequence[int]) -> Backbone:
    """The backbone. Raises ConfigError for blocks that it lacks, and as `build_backbone`."""
    clip = isinstance(config, ClipConfig)
    backbone = ClipVision.build(config) if clip else build_backbone(config)  # type: ignore[arg-type]
    try:
        for block in blocks:
            backbone.block_index(block)
    except ValueError as error:
        raise ConfigError(f"config.blocks={tuple(blocks)}: {error}") from error
    return backbone


def as_maps(_: Backbone, features: Features) -> tuple[Tensor, ...]:
    """(B, D, h, w) of each block, in memory as anomalib's own are."""
    return tuple(block.contiguous() for block in features.maps())


def as_tokens(_: Backbone, features: Features) -> tuple[Tensor, ...]:
    """(B, P + L, D) of each block, the prefix first."""
    pairs = zip(features.prefix, features.patches, strict=True)
    return tuple(torch.cat(pair, dim=1) for pair in pairs)


def as_normed(backbone: Backbone, features: Features) -> tuple[Tensor, ...]:
    """Patches (B, L, D) of each block behind the network's last norm."""
    network: Any = backbone.network
    norm = network.ln_post if isinstance(backbone, ClipVision) else network.norm
    return tuple(norm(patches) for patches in features.patches)


Read = Callable[[Backbone, Features], tuple[Tensor, ...]]


class FrozenFeatures(nn.Module):
    """A frozen backbone with the face of anomalib's TimmFeatureExtractor.

    Takes images in 0..1, which the backbone normalises, and gives a dict of fp32 tensors.
    """

    def __init__(
        self, backbone: Backbone, blocks: Sequence[int], layers: Sequence[str], read: Read
    ) -> None:
        """layers: what anomalib's model calls the blocks, in their order."""
        super().__init__()
        self.backbone = backbone
        self.blocks, self.layers = tuple(blocks), tuple(layers)
        self.out_dims = [backbone.width(block) for block in blocks]
        self._read = read

    @property
    def patch_size(self) -> int:
        """Of a transformer, in pixels."""
        backbone: Any = self.backbone
        return int(backbone.patch)

    @property
    def num_register_tokens(self) -> int:
        """Prefix tokens of a transformer beside the class token."""
        network: Any = self.backbone.network
        return int(getattr(network, "num_prefix_tokens", 1)) - 1

    @torch.no_grad()
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self._read(self.backbone, self.backbone.extract(image, self.blocks))
        return {name: part.float() for name, part in zip(self.layers, found, strict=True)}


class Student(nn.Module):
    """A trainable CNN of a frozen one's architecture, from random values; the same face."""

    mean: Tensor
    std: Tensor

    def __init__(self, teacher: FrozenFeatures, config: BackboneConfig) -> None:
        """Raises ConfigError for a teacher that is no CNN."""
        super().__init__()
        backbone = teacher.backbone
        if not isinstance(backbone, ConvBackbone):
            raise ConfigError(
                f"stfpm's student is a CNN, and {config.name} is none; choose a backbone such as "
                "tf_efficientnet_lite0.in1k."
            )
        source = find_source(config)
        stages, _ = stages_of(create(source.name, {**source.arguments, "num_classes": 0}))
        self.wanted = [backbone.block_index(block) for block in teacher.blocks]
        self.layers = teacher.layers
        learning = nn.ModuleList(stages[: max(self.wanted) + 1])
        self.stages = learning.to(memory_format=torch.channels_last)
        with_exact_depthwise(self.stages)
        self.register_buffer("mean", backbone.mean.clone(), persistent=False)
        self.register_buffer("std", backbone.std.clone(), persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        current, maps = (image - self.mean) / self.std, []
        current = current.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            current = stage(current)
            maps.append(current)
        found = (maps[index].float() for index in self.wanted)
        return dict(zip(self.layers, found, strict=True))


class TowersForWindows(nn.Module):
    """Both towers of a CLIP with the face of open_clip's, as far as WinCLIP looks at it."""

    def __init__(self, clip: Clip, side: int) -> None:
        """Raises ConfigError for images of another side than the network's own."""
        super().__init__()
        own = int(clip.vision.network.image_size[0])
        if side != own:
            raise ConfigError(
                f"winclip cuts windows from the network's own grid: expected config.side={own}, "
                f"got {side}."
            )
        self.vision, self.text = clip
        self.visual = _Windows(clip.vision)

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, E) and, not projected, (B, L, D)."""
        network = self.vision.network
        network.output_tokens = True
        with self.vision._own_precision(image):
            pooled, tokens = network(self.vision.normalised(image))
        return pooled.float(), tokens.float()

    def encode_text(self, ids: Tensor) -> Tensor:
        """(N, E)."""
        return self.text.encode(ids).float()


class _Windows:
    """The parts of an image tower that WinCLIP runs itself, over the tokens of a window."""

    output_tokens: bool
    proj = None
    """Projected in `_global_pool`."""

    def __init__(self, vision: ClipVision) -> None:
        self._network = vision.network
        self.grid_size = vision.grid
        self.patch_dropout = vision.network.patch_dropout
        self.ln_pre, self.ln_post = vision.network.ln_pre, vision.network.ln_post

    def transformer(self, tokens: Tensor) -> Tensor:
        """(1 + L, N, D): as anomalib has them; open_clip's blocks take the batch first now."""
        blocks = self._network.transformer
        assert blocks.batch_first
        changed: Tensor = blocks(tokens.transpose(0, 1))
        return changed.transpose(0, 1)

    def _global_pool(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        pooled: Tensor = tokens[:, 0] @ self._network.proj
        return pooled.float(), tokens[:, 1:]


READS: Mapping[tuple[str, bool], Read] = {
    ("NCHW", False): as_maps,
    ("NLC", False): as_normed,
    ("NLC", True): as_tokens,
}
"""(output format, whether with prefix tokens), in anomalib's words -> how features are read."""


def extractors(config: BackboneConfig, blocks: Sequence[int]) -> Callable[..., nn.Module]:
    """In place of the class TimmFeatureExtractor: whatever network it names, ours is given."""
    network = build_frozen(config, blocks)

    def make(
        backbone: object,
        layers: Sequence[str],
        pre_trained: bool = True,
        requires_grad: bool = False,
        output_fmt: str = "NCHW",
        return_class_token: bool = False,
        norm: bool = True,
        dynamic_img_size: bool = True,
    ) -> nn.Module:
        read = READS[output_fmt, return_class_token]
        if read is not as_maps and isinstance(network, ConvBackbone):
            raise ConfigError(
                f"this model reads the tokens of a vision transformer, and {config.name} is a "
                "CNN; choose a backbone such as vit_small_patch14_dinov2.lvd142m."
            )
        frozen = FrozenFeatures(network, blocks, layers, read)
        return Student(frozen, config) if requires_grad else frozen

    return make
