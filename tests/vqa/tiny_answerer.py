"""A random answerer small enough for tests, whose answers differ from image to image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scanomaly.backbones.language import build_tokenizer
from scanomaly.config.vqa import (
    FormerConfig,
    LanguageConfig,
    VisualConfig,
    VqaConfig,
    VqaDataConfig,
)
from scanomaly.vqa.images import Images
from scanomaly.vqa.kq_former import KqFormerVqa

SIDE = 32
VIT = {"img_size": SIDE, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
CNN = {"layers": (1, 1, 1, 1), "channels": (8, 12, 20, 24), "stem_width": 8}
VISUAL = {
    "vit": VisualConfig(name="vit_tiny_patch16_224", weights="random", arguments=VIT, side=SIDE),
    "resnet": VisualConfig(
        name="resnet18", kind="cnn", weights="random", arguments=CNN, stage=3, upsample=48
    ),
}
SMALL: dict[str, Any] = {"weights": "random", "width": 16, "heads": 2}
FORMER = FormerConfig(layers=2, queries=3, hidden=24, positions=16, head_hidden=24, **SMALL)
DECODER = LanguageConfig(tokenizer="words", layers=2, positions=40, **SMALL)
DATA = VqaDataConfig(resize=40, crop=SIDE)
TEXTS = (
    "Is the case normal? Yes.",
    "Please describe the condition of the brain. It's mass lesion.",
    "Where is it? In the left frontal lobe, and small.",
)
QUESTIONS = ("Is the case normal?", "Please describe the condition of the brain.", "Where is it?")


def vqa_config(**changes: Any) -> VqaConfig:
    fields: dict[str, Any] = {
        "visual": VISUAL["vit"],
        "former": FORMER,
        "decoder": DECODER,
        "memory_hidden": 5,
        "memory_tokens": 6,
        "max_tokens": 20,
    }
    return VqaConfig(**{**fields, **changes})


def tiny_answerer(**changes: Any) -> KqFormerVqa:
    """KQ-Former concat unless `changes` of the configuration say otherwise; in eval mode."""
    config = vqa_config(**changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tokenizer = build_tokenizer(config.decoder, TEXTS)
        answerer = KqFormerVqa.build(config, tokenizer, DATA)
        stir(answerer)
    return answerer.eval()


def stir(answerer: KqFormerVqa) -> None:
    """Weights so large that words follow from the image."""
    for parameter in answerer.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            nn.init.normal_(parameter, std=0.4)


def random_images(count: int, seed: int = 0) -> Images:
    """(B, 3, S, S) each, in -1..1."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.rand(count, 3, SIDE, SIDE, generator=generator) * 2 - 1

    return draw(), draw(), draw()


def some(images: Images, *indices: int) -> Images:
    """The triples with these numbers."""
    image, anomaly_map, reconstruction = (each[list(indices)] for each in images)
    return image, anomaly_map, reconstruction
