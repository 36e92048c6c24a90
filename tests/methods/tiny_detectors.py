"""A tiny configuration or two of every method, on tiny random networks in real weight files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones.tiny_networks import make_network, save_folder
from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.base import Frozen
from scanomaly.config.qfae import (
    QFAE_MEAN,
    QFAE_STD,
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
)
from scanomaly.records import Batch, Draw

SIDE = 32
DINO, MAE, RESNET = "vit_base_patch8_224.dino", "vit_base_patch16_224.mae", "resnet18.a1_in1k"

Weights = Callable[[str], Path]
"""timm name -> folder with a tiny random network of that architecture."""

JUNCTION = {"queries": 16, "width": 24, "heads": 2, "cross_head_width": 8, "mlp_ratio": 2.0}
DECODER = {"width": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "patch": 8}
PATCHES = {
    "loss_views": ViewsConfig(blocks=(1, 3), patches=(8, 16)),
    "score_views": ViewsConfig(blocks=(0, 1, 3), patches=(4, 8, 16)),
}


def vit(name: str, weights: Weights) -> BackboneConfig:
    return BackboneConfig(
        name=name, weights=str(weights(name)), side=SIDE, mean=QFAE_MEAN, std=QFAE_STD
    )


def published_qfae(weights: Weights) -> QFAEConfig:
    """As published: two ViTs, causal, no residuals, product over patch sizes."""
    return QFAEConfig(
        side=SIDE,
        encoders=(
            EncoderConfig(backbone=vit(DINO, weights)),
            EncoderConfig(backbone=vit(MAE, weights), blocks=(-1,)),
        ),
        junction=JunctionConfig(**JUNCTION),
        decoder=DecoderConfig(**DECODER),
        perceptual=PerceptualConfig(backbone=vit(MAE, weights)),
        **PATCHES,
    )


def offline_qfae(weights: Weights) -> QFAEConfig:
    """Like the preset qfae-offline: stages of one CNN as encoder and as perceptual model."""
    backbone = BackboneConfig(name=RESNET, weights=str(weights(RESNET)))
    return QFAEConfig(
        side=SIDE,
        encoders=(
            EncoderConfig(
                backbone=backbone, blocks=(1, 2), merge="channels", standardise=True, positions=True
            ),
        ),
        junction=JunctionConfig(
            **JUNCTION, dropout=0.0, causal=False, residual=True, local_start=True
        ),
        decoder=DecoderConfig(**DECODER, channels=1),
        perceptual=PerceptualConfig(backbone=backbone),
        corruption=CorruptionConfig(strength=0.3),
        loss=(LossTerm(kind="perceptual"), LossTerm(kind="mae")),
        loss_views=ViewsConfig(blocks=(1, 2), sides=(SIDE,), multiply="none"),
        score_views=ViewsConfig(blocks=(1, 2), sides=(SIDE, 48), multiply="views_and_blocks"),
        mean=(0.25, 0.25, 0.25),
        std=(0.25, 0.25, 0.25),
    )


def plain_autoencoder(weights: Weights) -> AutoencoderConfig:
    return AutoencoderConfig(
        side=SIDE,
        encoders=(EncoderConfig(backbone=vit(DINO, weights), blocks=(-2,)),),
        decoder=DecoderConfig(**DECODER),
        perceptual=PerceptualConfig(backbone=vit(MAE, weights)),
        loss=(LossTerm(kind="mae"), LossTerm(kind="ssim", weight=0.5)),
        score=ScoreConfig(sources=("mae",)),
        **PATCHES,
    )


TINY_CONFIGS: Mapping[str, Mapping[str, Callable[[Weights], Frozen]]] = {
    "qfae": {"vit": published_qfae, "cnn": offline_qfae},
    "autoencoder": {"vit": plain_autoencoder},
}
"""Method -> its tiny configurations by name; the contract tests run over all of them."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Saves each network once."""
    return weight_folders(tmp_path_factory.mktemp("weights"))


def weight_folders(root: Path) -> Weights:
    """Saves each network once under `root`."""

    def folder(name: str) -> Path:
        found = root / name
        return found if found.exists() else save_folder(make_network(name), name, found)

    return folder


def random_images(count: int, seed: int = 0) -> Tensor:
    """Smooth random pictures (count, 3, SIDE, SIDE) in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, SIDE // 4, SIDE // 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")


def batch_of(image: Tensor) -> Batch:
    return Batch(image, tuple(f"image {index}" for index in range(len(image))))


class Images:
    """Training data that draws from a tensor of images."""

    def __init__(self, image: Tensor) -> None:
        self.image = image

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, draw: Draw) -> Tensor:
        return self.image[draw.index]

    def collate(self, items: list[Tensor]) -> Batch:
        return batch_of(torch.stack(items))
