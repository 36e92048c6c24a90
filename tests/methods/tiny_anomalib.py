"""A tiny configuration of every model of anomalib, on tiny random networks."""

from collections.abc import Callable, Mapping
from pathlib import Path

from scanomaly.config.anomalib_models import (
    AnomalibConfig,
    AnomalyDino,
    Cfa,
    Cflow,
    Csflow,
    Dinomaly,
    Draem,
    Ganomaly,
    Padim,
    Patchcore,
    ReverseDistillation,
    Stfpm,
    Supersimplenet,
    Winclip,
)
from scanomaly.config.backbones import BackboneConfig, ClipConfig
from scanomaly.config.prompted_clip import PromptedClipConfig

SIDE = 32
CNN, VIT, CLIP = "resnet18.a1_in1k", "vit_base_patch8_224.dino", "tiny-clip/one-width"

Weights = Callable[[str], Path]


def on_cnn(model: object, blocks: tuple[int, ...], side: int = SIDE) -> Callable[..., object]:
    def config(weights: Weights) -> AnomalibConfig:
        backbone = BackboneConfig(name=CNN, weights=str(weights(CNN)))
        return AnomalibConfig(model=model, side=side, backbone=backbone, blocks=blocks)

    return config


def on_vit(model: object, blocks: tuple[int, ...]) -> Callable[..., object]:
    def config(weights: Weights) -> AnomalibConfig:
        backbone = BackboneConfig(name=VIT, weights=str(weights(VIT)))
        return AnomalibConfig(model=model, side=SIDE, backbone=backbone, blocks=blocks)

    return config


def alone(model: object) -> Callable[..., object]:
    return lambda weights: AnomalibConfig(model=model, side=SIDE)


def clip(weights: Weights) -> ClipConfig:
    return ClipConfig(name=CLIP, weights=str(weights(CLIP)), side=SIDE)


def winclip(weights: Weights, few_shot: bool = False) -> AnomalibConfig:
    model = Winclip(object="brain", few_shot=few_shot)
    return AnomalibConfig(model=model, side=SIDE, backbone=clip(weights))


def clip_patchcore(weights: Weights) -> AnomalibConfig:
    model = Patchcore(coreset_ratio=1.0, neighbours=1)
    return AnomalibConfig(model=model, side=SIDE, backbone=clip(weights), blocks=(1, 3))


def reverse_distillation(weights: Weights) -> AnomalibConfig:
    """anomalib has decoders for ResNets of the real widths alone."""
    backbone = BackboneConfig(name=CNN, weights="random")
    return AnomalibConfig(
        model=ReverseDistillation(), side=SIDE, backbone=backbone, blocks=(1, 2, 3)
    )


def prompted_clip(weights: Weights) -> PromptedClipConfig:
    return PromptedClipConfig(object="Brain", backbone=clip(weights))


TINY_MODELS: Mapping[str, Callable[[Weights], object]] = {
    "patchcore": on_cnn(Patchcore(), (1, 2)),
    "padim": on_cnn(Padim(features=12), (1, 2)),
    "reverse_distillation": reverse_distillation,
    "stfpm": on_cnn(Stfpm(), (1, 2)),
    "cfa": on_cnn(Cfa(), (1, 2, 3)),
    "cflow": on_cnn(Cflow(fibers=16, condition=4, blocks=1), (1, 2)),
    "csflow": on_cnn(Csflow(hidden=4, blocks=1), (4,), side=128),
    "draem": alone(Draem(width=8)),
    "ganomaly": alone(Ganomaly(features=4, latent=8)),
    "supersimplenet": on_cnn(Supersimplenet(), (1, 2), side=64),
    "winclip": winclip,
    "dinomaly": on_vit(Dinomaly(), (0, 1, 2, 3)),
    "anomaly_dino": on_vit(AnomalyDino(), (3,)),
}
"""`model.name` -> its tiny configuration."""

UNUSED: Mapping[str, frozenset[str]] = {
    "cfa": frozenset({"model.descriptor.layer.weight", "model.descriptor.layer.bias"}),
    "reverse_distillation": frozenset(
        {
            "model.bottleneck.conv4.weight",
            "model.bottleneck.bn4.weight",
            "model.bottleneck.bn4.bias",
        }
    ),
}
"""`model.name` -> parameters that anomalib makes and never uses."""
