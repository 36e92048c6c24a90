"""QFAE: the paper's experiments and our offline recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.data import DataConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.qfae import (
    DINOV2,
    AutoencoderConfig,
    CorruptionConfig,
    DecoderConfig,
    EncoderConfig,
    JunctionConfig,
    LossTerm,
    PerceptualConfig,
    QFAEConfig,
    ScoreConfig,
    ViewsConfig,
    qfae_backbone,
)
from scanomaly.config.run import Run

PAPER = "QFAE, WACV 2026 (arXiv 2507.18481)"
PAPER_DATA = DataConfig(augmentation="qfae")
EVALUATED_BLOCKS = (11, 15, 19)


def _qfae(name: str, where: str, config: QFAEConfig, data: DataConfig = PAPER_DATA) -> Run:
    return Run(preset=name, source=f"{PAPER}, {where}", method="qfae", config=config, data=data)


def qfae_brain() -> Run:
    return _qfae("qfae-brain", "Table 5: BraTS2021", QFAEConfig())


def qfae_resc() -> Run:
    return _qfae("qfae-resc", "Table 5: RESC", QFAEConfig())


def qfae_chest() -> Run:
    score = ScoreConfig(image="mean.max")
    return _qfae("qfae-chest", "Table 5: RSNA", QFAEConfig(score=score))


def qfae_liver() -> Run:
    views = ViewsConfig(blocks=EVALUATED_BLOCKS, patches=(8, 16))
    data = PAPER_DATA.model_copy(update={"preprocess": "liver_roi"})
    return _qfae("qfae-liver", "Table 5: LiverCT", QFAEConfig(score_views=views), data)


def qfae_brain_two_encoders() -> Run:
    encoders = _encoders(DINOV2, DINO)
    return _qfae(
        "qfae-brain-two-encoders",
        "Table 11: DINOv2 L/14 and DINO B/8",
        QFAEConfig(encoders=encoders),
    )


DINO = "vit_base_patch8_224.dino"
OPENCLIP = "vit_large_patch14_clip_224.laion2b"
OPENCLIP_BASE = "vit_base_patch32_clip_224.openai"
MAE_LARGE = "vit_large_patch16_224.mae"
MAE_BASE = "vit_base_patch16_224.mae"
DINOV2_PLAIN = "vit_large_patch14_dinov2.lvd142m"
IMAGENET = "vit_base_patch16_224.augreg_in1k"


def _encoders(*names: str) -> tuple[EncoderConfig, ...]:
    return tuple(EncoderConfig(backbone=qfae_backbone(name)) for name in names)


ENCODER_ROWS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "dino": ((DINO,), "encoder DINO B/8"),
    "openclip": ((OPENCLIP,), "encoder OpenCLIP L/14"),
    "mae": ((MAE_LARGE,), "encoder MAE L/16"),
    "dinov2-no-registers": ((DINOV2_PLAIN,), "our addition: DINOv2 L/14 without registers"),
    "imagenet": ((IMAGENET,), "our addition: supervised ImageNet ViT-B/16"),
    "dinov2-dino-openclip": (
        (DINOV2, DINO, OPENCLIP),
        "encoders DINOv2 L/14, DINO B/8 and OpenCLIP L/14",
    ),
    "dinov2-dino-openclip-base": (
        (DINOV2, DINO, OPENCLIP_BASE),
        "encoders DINOv2 L/14, DINO B/8 and OpenCLIP B/32",
    ),
    "dinov2-dino-mae-base": (
        (DINOV2, DINO, MAE_BASE),
        "encoders DINOv2 L/14, DINO B/8 and MAE B/16",
    ),
    "dinov2-dino-mae": ((DINOV2, DINO, MAE_LARGE), "encoders DINOv2 L/14, DINO B/8 and MAE L/16"),
}
"""Encoder ablation on BraTS2021: preset suffix -> (networks, row of the paper)."""

PIXEL_LOSS = (LossTerm(kind="mae"),)
BOTH_LOSSES = (LossTerm(kind="perceptual"), LossTerm(kind="mae"))
MEAN_SCORE = ScoreConfig(image="mean.mean")


def _decoder(patch: int) -> dict[str, Any]:
    return {
        "decoder": DecoderConfig(patch=patch),
        "junction": JunctionConfig(queries=(224 // patch) ** 2),
    }


def _patches(*patches: int) -> dict[str, Any]:
    """Perceptual patch sizes in training and scoring alike."""
    return {
        "loss_views": ViewsConfig(blocks=(15, 19), patches=patches),
        "score_views": ViewsConfig(blocks=EVALUATED_BLOCKS, patches=patches),
    }


ABLATION_ROWS: Mapping[str, tuple[dict[str, Any], str]] = {
    "mae-loss": (
        {"loss": PIXEL_LOSS, "score": ScoreConfig(sources=("mae",))},
        "Table 1: with Q-Former, MAE loss",
    ),
    "mae-loss-perceptual-score": ({"loss": PIXEL_LOSS, "score": MEAN_SCORE}, "loss: MAE"),
    "both-losses": ({"loss": BOTH_LOSSES, "score": MEAN_SCORE}, "loss: MAE and perceptual"),
    "mean-score": ({"score": MEAN_SCORE}, "score: mean"),
    "layers-5-11": (
        {
            "loss_views": ViewsConfig(blocks=(5, 11), patches=(32, 56)),
            "score_views": ViewsConfig(blocks=(5, 11), patches=(16, 32, 56)),
        },
        "perceptual layers 5, 11",
    ),
    "decoder-patch-16": (_decoder(16), "decoder patch 16"),
    "decoder-patch-32": (_decoder(32), "decoder patch 32"),
    "perceptual-16": (_patches(16), "perceptual patch 16"),
    "perceptual-56": (_patches(56), "perceptual patch 56"),
    "perceptual-16-32-56": (_patches(16, 32, 56), "perceptual patches 16, 32, 56"),
    "non-causal": (
        {"junction": JunctionConfig(causal=False)},
        "text: plain self-attention; the published code is causal",
    ),
}
"""Ablations on BraTS2021: preset suffix -> (fields that differ from qfae-brain, row)."""


def autoencoder_brain() -> Run:
    return Run(
        preset="autoencoder-brain",
        source=f"{PAPER}, Table 1: without Q-Former, MAE loss (layout of the tokens: our reading)",
        method="autoencoder",
        config=AutoencoderConfig(),
        data=PAPER_DATA,
    )


LITE = BackboneConfig(name="tf_efficientnet_lite0.in1k")
OFFLINE_SIDE, OFFLINE_PATCH, OFFLINE_WIDTH = 128, 8, 160
OFFLINE_STAGES = (1, 2, 3)
"""Strides 4, 8 and 16."""


def qfae_offline_from_scratch() -> Run:
    """QFAE at small scale on ImageNet CNN features, without a warm start."""
    encoder = EncoderConfig(
        backbone=LITE, blocks=(1, 2), merge="channels", standardise=True, positions=True
    )
    config = QFAEConfig(
        side=OFFLINE_SIDE,
        encoders=(encoder,),
        junction=JunctionConfig(
            queries=(OFFLINE_SIDE // OFFLINE_PATCH) ** 2,
            width=OFFLINE_WIDTH,
            cross_head_width=OFFLINE_WIDTH // 8,
            mlp_ratio=2.0,
            dropout=0.0,
            causal=False,
            residual=True,
            local_start=True,
        ),
        decoder=DecoderConfig(
            width=OFFLINE_WIDTH,
            depth=2,
            heads=8,
            mlp_ratio=2.0,
            patch=OFFLINE_PATCH,
            channels=1,
        ),
        perceptual=PerceptualConfig(backbone=LITE),
        corruption=CorruptionConfig(strength=0.3),
        loss=BOTH_LOSSES,
        loss_views=ViewsConfig(blocks=OFFLINE_STAGES, sides=(OFFLINE_SIDE,), multiply="none"),
        score_views=ViewsConfig(
            blocks=OFFLINE_STAGES, sides=(OFFLINE_SIDE,), multiply="views_and_blocks"
        ),
        score=ScoreConfig(
            sources=("perceptual", "local_residual"),
            smooth=3,
            image="pixelwise_mean_max",
            mirror=True,
            relative=True,
        ),
        mean=(0.25, 0.25, 0.25),
        std=(0.25, 0.25, 0.25),
    )
    fit = FitOptions(
        epochs=10, batch_size=32, learning_rate=1e-3, gradient_clip=1.0, precision="bf16"
    )
    return Run(
        preset="qfae-offline-from-scratch",
        source="ours: QFAE at small scale, see docs/benchmarks.md",
        method="qfae",
        config=config,
        fit=fit,
    )


def qfae_offline() -> Run:
    """The same from the warm start that comes with the package: minutes on any folder."""
    run = qfae_offline_from_scratch()
    fit = run.fit.model_copy(
        update={"warm_start": "qfae-offline", "epochs": 3, "learning_rate": 3e-4}
    )
    return run.model_copy(update={"preset": "qfae-offline", "fit": fit})


def qfae_offline_heads() -> Run:
    """For brains in their skulls, which the warm start never saw: more steps, and larger ones."""
    run = qfae_offline()
    fit = run.fit.model_copy(update={"epochs": 12, "learning_rate": 6e-4})
    return run.model_copy(update={"preset": "qfae-offline-heads", "fit": fit})


def _ablation(suffix: str) -> Callable[[], Run]:
    fields, row = ABLATION_ROWS[suffix]
    return lambda: _qfae(f"qfae-brain-{suffix}", row, QFAEConfig(**fields))


def _encoder_row(suffix: str) -> Callable[[], Run]:
    names, row = ENCODER_ROWS[suffix]
    return lambda: _qfae(
        f"qfae-brain-encoder-{suffix}", row, QFAEConfig(encoders=_encoders(*names))
    )


QFAE_PRESETS: Mapping[str, Callable[[], Run]] = {
    "qfae-brain": qfae_brain,
    "qfae-resc": qfae_resc,
    "qfae-chest": qfae_chest,
    "qfae-liver": qfae_liver,
    "qfae-brain-two-encoders": qfae_brain_two_encoders,
    "autoencoder-brain": autoencoder_brain,
    "qfae-offline": qfae_offline,
    "qfae-offline-heads": qfae_offline_heads,
    "qfae-offline-from-scratch": qfae_offline_from_scratch,
    **{f"qfae-brain-{suffix}": _ablation(suffix) for suffix in ABLATION_ROWS},
    **{f"qfae-brain-encoder-{suffix}": _encoder_row(suffix) for suffix in ENCODER_ROWS},
}
