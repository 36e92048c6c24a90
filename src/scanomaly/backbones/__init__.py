"""Frozen feature extractors behind one interface.

torch and timm are imported when one is built: `weights list` needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from scanomaly.config.backbones import BackboneConfig
from scanomaly.errors import ConfigError

if TYPE_CHECKING:
    from scanomaly.backbones.base import Backbone, TokenHook

__all__ = ["FAMILIES", "Backbone", "TokenHook", "build_backbone", "build_views"]


def __getattr__(name: str) -> object:
    if name in ("Backbone", "TokenHook"):
        from scanomaly.backbones import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _convolutional(config: BackboneConfig) -> Backbone:
    from scanomaly.backbones.cnn import ConvBackbone

    return ConvBackbone.build(config)


def _transformer(config: BackboneConfig) -> Backbone:
    from scanomaly.backbones.vit import VisionTransformerBackbone

    return VisionTransformerBackbone.build(config)


FAMILIES: Mapping[str, Callable[[BackboneConfig], Backbone]] = {
    "resnet": _convolutional,
    "wide_resnet": _convolutional,
    "tf_efficientnet": _convolutional,
    "vit_": _transformer,
    "deit": _transformer,
}
"""How timm's names begin -> what builds them."""


def build_backbone(config: BackboneConfig) -> Backbone:
    """The frozen network that `config` describes, on the CPU in fp32; downloads nothing.

    Raises ConfigError for a name or size that cannot be built, WeightsError if the weights are
    missing, damaged or of another network.
    """
    for beginning, build in FAMILIES.items():
        if config.name.startswith(beginning):
            return build(config)
    raise ConfigError(
        f"no backbone is called {config.name!r}; names begin with {', '.join(FAMILIES)} "
        "and are timm's own, such as tf_efficientnet_lite0 or vit_large_patch16_224.mae."
    )


def build_views(config: BackboneConfig, patches: Sequence[int]) -> tuple[Backbone, ...]:
    """One ViT at several patch sizes, sharing every block: the memory and loading time of one.

    To hold them in bf16, `cast` each of them before the first use. Raises as `build_backbone`,
    ConfigError for a CNN, and ValueError for a patch that does not divide the side.
    """
    from scanomaly.backbones.vit import VisionTransformerBackbone

    first = build_backbone(config.model_copy(update={"patch": patches[0]}))
    if not isinstance(first, VisionTransformerBackbone):
        raise ConfigError(f"{config.name} is a CNN and has no patch sizes; use image sides.")
    return tuple(first.resampled(patch=patch) for patch in patches)
