"""A tiny configuration or two of every method, on tiny random networks in real weight files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones.tiny_networks import make_network, save_folder
from methods.tiny_anomalib import TINY_MODELS, prompted_clip
from scanomaly.config.backbones import BackboneConfig, ClipConfig
from scanomaly.config.base import Frozen
from scanomaly.config.iqe_clip import (
    BranchWeights,
    IqeClipConfig,
    PromptConfig,
    QueryConfig,
)
from scanomaly.config.iqe_clip import LossConfig as IqeLossConfig
from scanomaly.config.iqe_clip import ScoreConfig as IqeScoreConfig
from scanomaly.config.mvfa import AdapterConfig, MVFAConfig
from scanomaly.config.mvfa import LossConfig as MvfaLossConfig
from scanomaly.config.mvfa import ScoreConfig as MvfaScoreConfig
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
from tiny_clip import changed, save_clip

SIDE = 32
DINO, MAE, RESNET = "vit_base_patch8_224.dino", "vit_base_patch16_224.mae", "resnet18.a1_in1k"
CLIP_OF_ONE_WIDTH = "tiny-clip/one-width"
"""Class features can be tokens of its text tower."""
CLIPS = {CLIP_OF_ONE_WIDTH: changed(embed_dim=16, text_cfg={"width": 16})}

Weights = Callable[[str], Path]
"""timm name, or one of CLIPS -> folder with a tiny random network of that architecture."""

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


def published_iqe_clip(weights: Weights) -> IqeClipConfig:
    """As released: class tokens, one learned token a layer, two branches, Gaussian filter."""
    return IqeClipConfig(
        backbone=ClipConfig(
            name=CLIP_OF_ONE_WIDTH,
            weights=str(weights(CLIP_OF_ONE_WIDTH)),
            side=SIDE,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        blocks=(1, 3),
        queries=QueryConfig(depth=1, heads=2, hidden=24),
        score=IqeScoreConfig(sigma=2.0),
    )


def paper_iqe_clip(weights: Weights) -> IqeClipConfig:
    """Every choice as in the paper's text, and the last block not among the levels."""
    return IqeClipConfig(
        backbone=published_iqe_clip(weights).backbone,
        blocks=(0, 2),
        prompts=PromptConfig(condition="mlp", learned=4),
        queries=QueryConfig(condition="mlp", order="paper", depth=1, heads=2, hidden=24),
        level_activation="relu",
        temperature="none",
        loss=IqeLossConfig(
            weights=BranchWeights(text=0.8, query=0.2), pooled="map_max", classification="plain"
        ),
        score=IqeScoreConfig(sigma=0.0, image="map_max"),
    )


def few_shot_mvfa(weights: Weights) -> MVFAConfig:
    """As published, on two levels."""
    return MVFAConfig(object="Brain", backbone=published_iqe_clip(weights).backbone, blocks=(1, 3))


def zero_shot_mvfa(weights: Weights) -> MVFAConfig:
    """Every form that the paper has and the code has not; one level is adapted and not scored."""
    return MVFAConfig(
        setting="zero_shot",
        object="Brain",
        backbone=published_iqe_clip(weights).backbone,
        blocks=(0, 2, 3),
        scored_blocks=(2, 3),
        adapters=AdapterConfig(
            heads="single", activation="relu", output_activation="none", mixing="together"
        ),
        loss=MvfaLossConfig(pooled="max", classification="plain"),
        score=MvfaScoreConfig(pooled="max"),
    )


TINY_CONFIGS: Mapping[str, Mapping[str, Callable[[Weights], Frozen]]] = {
    "qfae": {"vit": published_qfae, "cnn": offline_qfae},
    "autoencoder": {"vit": plain_autoencoder},
    "mvfa": {"few": few_shot_mvfa, "zero": zero_shot_mvfa},
    "iqe_clip": {"code": published_iqe_clip, "paper": paper_iqe_clip},
    "prompted_clip": {"tiny": prompted_clip},
    "anomalib": TINY_MODELS,
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
        if found.exists():
            return found
        if name in CLIPS:
            return save_clip(found, CLIPS[name])
        return save_folder(make_network(name), name, found)

    return folder


def random_images(count: int, seed: int = 0, side: int = SIDE) -> Tensor:
    """Smooth random pictures (count, 3, side, side) in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


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


class LabelledImages:
    """The same with labels, masks and data sets: every second image is abnormal.

    Two data sets take turns, two images at a time.
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, draw: Draw) -> int:
        return draw.index

    def collate(self, items: list[int]) -> Batch:
        label = torch.tensor([index % 2 == 1 for index in items])
        mask = torch.zeros(len(items), 1, *self.image.shape[2:], dtype=torch.bool)
        mask[label, :, 8:20, 4:16] = True
        return Batch(
            self.image[items],
            tuple(f"image {index}" for index in items),
            label,
            mask,
            datasets=tuple(("Brain", "Liver")[index // 2 % 2] for index in items),
        )
