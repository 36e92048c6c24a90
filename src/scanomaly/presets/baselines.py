"""Detectors to compare with: anomalib's models as published, at small scale offline, and a CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

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
from scanomaly.config.data import DataConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.prompted_clip import PromptedClipConfig
from scanomaly.config.run import Run
from scanomaly.presets.offline import BLOCKS as TINY_BLOCKS
from scanomaly.presets.offline import FEW_IMAGES, TINY_CLIP

SOURCE = "anomalib 2.7, {}; docs/baselines.md"
ONCE = FitOptions(epochs=1, batch_size=32)
"""Every image once: no gradient step, so no learning rate."""
WIDE_RESNET = BackboneConfig(name="wide_resnet50_2.racm_in1k")
"""What timm means by wide_resnet50_2, anomalib's name for it."""
EFFICIENT = BackboneConfig(name="tf_efficientnet_lite0.in1k")
OFFLINE_SIDE = 128
IN_PILLOW: Mapping[str, Any] = {"interpolation": "bicubic", "library": "pillow"}
"""How MVFA's images are resized, and those of its tiny CLIP."""


def _run(
    name: str, words: str, config: AnomalibConfig, fit: FitOptions = ONCE, few: bool = False
) -> Run:
    return Run(
        preset=name,
        source=SOURCE.format(words),
        method="anomalib",
        config=config,
        data=DataConfig(supervision="few_shot", shots=4) if few else DataConfig(),
        fit=fit,
    )


def _steps(epochs: int, batch_size: int, learning_rate: float) -> FitOptions:
    """anomalib's learning rate; epochs and batch size are the papers', as anomalib names none."""
    return FitOptions(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)


FITS: Mapping[str, FitOptions] = {
    "reverse_distillation": _steps(200, 16, 5e-3),
    "stfpm": _steps(100, 32, 0.4),
    "cfa": _steps(30, 4, 1e-3),
    "cflow": _steps(25, 32, 1e-4),
    "csflow": _steps(240, 16, 2e-4),
    "draem": _steps(700, 8, 1e-4),
    "ganomaly": _steps(100, 32, 2e-4),
    "supersimplenet": _steps(300, 32, 1e-4),
    "dinomaly": _steps(100, 16, 2e-3),
}
"""Model -> how long it trains. Dinomaly's paper counts 10,000 steps instead of epochs."""

PUBLISHED: Mapping[str, AnomalibConfig] = {
    "patchcore": AnomalibConfig(model=Patchcore(), backbone=WIDE_RESNET, blocks=(2, 3)),
    "padim": AnomalibConfig(
        model=Padim(), backbone=BackboneConfig(name="resnet18.a1_in1k"), blocks=(1, 2, 3)
    ),
    "reverse-distillation": AnomalibConfig(
        model=ReverseDistillation(), backbone=WIDE_RESNET, blocks=(1, 2, 3)
    ),
    "stfpm": AnomalibConfig(
        model=Stfpm(), backbone=BackboneConfig(name="resnet18.a1_in1k"), blocks=(1, 2, 3)
    ),
    "cfa": AnomalibConfig(
        model=Cfa(), backbone=BackboneConfig(name="wide_resnet50_2.tv2_in1k"), blocks=(1, 2, 3)
    ),
    "cflow": AnomalibConfig(model=Cflow(), backbone=WIDE_RESNET, blocks=(2, 3, 4)),
    "csflow": AnomalibConfig(
        model=Csflow(), backbone=BackboneConfig(name="tf_efficientnet_b5.in1k"), blocks=(4,)
    ),
    "draem": AnomalibConfig(model=Draem()),
    "ganomaly": AnomalibConfig(model=Ganomaly()),
    "supersimplenet": AnomalibConfig(
        model=Supersimplenet(),
        backbone=BackboneConfig(name="wide_resnet50_2.tv_in1k"),
        blocks=(2, 3),
    ),
    "dinomaly": AnomalibConfig(
        model=Dinomaly(),
        side=392,
        backbone=BackboneConfig(name="vit_base_patch14_reg4_dinov2.lvd142m"),
        blocks=(2, 3, 4, 5, 6, 7, 8, 9),
    ),
    "anomaly-dino": AnomalibConfig(
        model=AnomalyDino(),
        side=252,
        interpolation="bicubic",
        backbone=BackboneConfig(name="vit_small_patch14_dinov2.lvd142m"),
        blocks=(11,),
    ),
}
"""Preset -> anomalib's defaults."""

WINCLIP_BACKBONE = ClipConfig(name="ViT-B-16-plus-240/laion400m_e31")


def _published(name: str) -> Run:
    config = PUBLISHED[name]
    return _run(name, "its defaults", config, FITS.get(config.model.name, ONCE))


def _winclip(name: str, few: bool) -> Run:
    config = AnomalibConfig(
        model=Winclip(few_shot=few), side=240, interpolation="bicubic", backbone=WINCLIP_BACKBONE
    )
    return _run(name, "its defaults", config, few=few)


OFFLINE: Mapping[str, AnomalibConfig] = {
    "patchcore-offline": AnomalibConfig(
        model=Patchcore(coreset_ratio=0.01), side=OFFLINE_SIDE, backbone=EFFICIENT, blocks=(2, 3)
    ),
    "padim-offline": AnomalibConfig(
        model=Padim(), side=OFFLINE_SIDE, backbone=EFFICIENT, blocks=(1, 2, 3)
    ),
    "stfpm-offline": AnomalibConfig(
        model=Stfpm(), side=OFFLINE_SIDE, backbone=EFFICIENT, blocks=(1, 2, 3)
    ),
    "cfa-offline": AnomalibConfig(
        model=Cfa(), side=OFFLINE_SIDE, backbone=EFFICIENT, blocks=(1, 2, 3)
    ),
    "cflow-offline": AnomalibConfig(
        model=Cflow(), side=OFFLINE_SIDE, backbone=EFFICIENT, blocks=(2, 3, 4)
    ),
    "csflow-offline": AnomalibConfig(
        model=Csflow(hidden=64), side=OFFLINE_SIDE, backbone=EFFICIENT, blocks=(4,)
    ),
    "draem-offline": AnomalibConfig(model=Draem(width=32), side=OFFLINE_SIDE),
    "ganomaly-offline": AnomalibConfig(model=Ganomaly(features=32), side=OFFLINE_SIDE),
    "supersimplenet-offline": AnomalibConfig(
        model=Supersimplenet(), side=OFFLINE_SIDE, backbone=EFFICIENT, blocks=(2, 3)
    ),
}
"""Preset -> the model on EfficientNet-Lite0, or with small networks of its own."""

OFFLINE_EPOCHS = 10
IN_BF16 = ("cfa",)
"""Models that train as well in bf16, in three quarters of the time on a CPU."""


def _offline(name: str) -> Run:
    config = OFFLINE[name]
    fit = FITS.get(config.model.name, ONCE)
    if fit is not ONCE:
        precision = "bf16" if config.model.name in IN_BF16 else fit.precision
        changes = {"epochs": OFFLINE_EPOCHS, "batch_size": 8, "precision": precision}
        fit = fit.model_copy(update=changes)
    return _run(name, "at small scale, ours", config, fit)


def patchcore_tiny_clip() -> Run:
    """PatchCore on the features that MVFA and IQE-CLIP adapt, from the same K normal images."""
    config = AnomalibConfig(
        model=Patchcore(coreset_ratio=1.0, neighbours=1),
        side=OFFLINE_SIDE,
        backbone=TINY_CLIP,
        blocks=TINY_BLOCKS,
        **IN_PILLOW,
    )
    run = _run("patchcore-tiny-clip", "K normal images, the whole memory, ours", config)
    return run.model_copy(update={"data": FEW_IMAGES})


def _winclip_offline(name: str, few: bool) -> Run:
    config = AnomalibConfig(
        model=Winclip(few_shot=few), side=OFFLINE_SIDE, backbone=TINY_CLIP, **IN_PILLOW
    )
    run = _run(name, "at small scale, ours", config)
    return run.model_copy(update={"data": FEW_IMAGES if few else run.data})


def _prompted_clip(name: str, config: PromptedClipConfig) -> Run:
    return Run(
        preset=name,
        source="ours: a frozen CLIP, asked with MVFA's prompt ensemble",
        method="prompted_clip",
        config=config,
        fit=ONCE,
    )


BASELINE_PRESETS: Mapping[str, Callable[[], Run]] = {
    **{name: partial(_published, name) for name in PUBLISHED},
    "winclip-zero": partial(_winclip, "winclip-zero", False),
    "winclip-few": partial(_winclip, "winclip-few", True),
    "clip-prompts": partial(_prompted_clip, "clip-prompts", PromptedClipConfig()),
    **{name: partial(_offline, name) for name in OFFLINE},
    "patchcore-tiny-clip": patchcore_tiny_clip,
    "winclip-offline-zero": partial(_winclip_offline, "winclip-offline-zero", False),
    "winclip-offline-few": partial(_winclip_offline, "winclip-offline-few", True),
    "clip-prompts-offline": partial(
        _prompted_clip, "clip-prompts-offline", PromptedClipConfig(backbone=TINY_CLIP)
    ),
}
