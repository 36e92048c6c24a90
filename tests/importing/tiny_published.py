"""Tiny runs, their backbones on disk, and published files that fit them, with golden values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from golden_parity import weights as golden_weights
from importing.published_files import Shapes, iqe_clip, mvfa, qfae, random_values
from methods.tiny_detectors import MAE, weight_folders
from scanomaly.backbones import build_backbone
from scanomaly.config.backbones import BackboneConfig, ClipConfig
from scanomaly.config.data import DataConfig
from scanomaly.config.iqe_clip import IqeClipConfig, QueryConfig, ScoreConfig
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.config.qfae import (
    QFAE_MEAN,
    QFAE_STD,
    DecoderConfig,
    EncoderConfig,
    JunctionConfig,
    PerceptualConfig,
    QFAEConfig,
    ViewsConfig,
)
from scanomaly.config.run import Run
from scanomaly.nn.positions import sincos_table
from tiny_clip import save_clip

REGISTERS = "vit_base_patch14_reg4_dinov2.lvd142m"
ENCODER = {"img_size": 28, "embed_dim": 32, "depth": 5, "num_heads": 4, "mlp_ratio": 2.0}
"""Of the golden encoder."""
Table = Mapping[str, Tensor]


class Sizes(NamedTuple):
    """Of one tiny QFAE that holds one golden part. junction: queries, width, heads, hidden."""

    side: int
    encoder_patch: int
    perceptual: tuple[int, ...]
    junction: tuple[int, int, int, int]
    cross_head: int
    decoder: tuple[int, int, int, int]
    """Width, depth, heads, patch; hidden layers are twice as wide."""


QFAE_SIZES: Mapping[str, Sizes] = {
    "encoders.0": Sizes(28, 14, (7, 14), (16, 20, 4, 40), 8, (24, 1, 2, 7)),
    "junction": Sizes(42, 14, (7, 14), (9, 32, 4, 64), 64, (24, 1, 2, 14)),
    "decoder": Sizes(16, 8, (4, 8), (16, 20, 4, 40), 8, (32, 2, 4, 4)),
}
"""Published module whose golden values it takes -> sizes."""


def save_golden_encoder(folder: Path, table: Table) -> Path:
    """QFAE's golden encoder in timm's own layout."""
    name = REGISTERS.split(".")[0]
    network = timm.create_model(name, pretrained=False, num_classes=0, **ENCODER)
    network.load_state_dict(golden_weights(table, "w.model."))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    saved = {"architecture": name, "model_args": ENCODER, "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(saved))
    return folder


def qfae_run(sizes: Sizes, encoder: Path, weights: Path) -> Run:
    def vit(name: str, folder: Path, **fields: Any) -> BackboneConfig:
        return BackboneConfig(
            name=name,
            weights=str(folder),
            side=sizes.side,
            mean=QFAE_MEAN,
            std=QFAE_STD,
            **fields,
        )

    queries, width, heads, hidden = sizes.junction
    out, depth, out_heads, patch = sizes.decoder
    views = ViewsConfig(blocks=(1, 3), patches=sizes.perceptual)
    config = QFAEConfig(
        side=sizes.side,
        encoders=(EncoderConfig(backbone=vit(REGISTERS, encoder, patch=sizes.encoder_patch)),),
        junction=JunctionConfig(
            queries=queries,
            width=width,
            heads=heads,
            cross_head_width=sizes.cross_head,
            mlp_ratio=hidden / width,
        ),
        decoder=DecoderConfig(width=out, depth=depth, heads=out_heads, mlp_ratio=2.0, patch=patch),
        perceptual=PerceptualConfig(backbone=vit(MAE, weight_folders(weights)(MAE))),
        loss_views=views,
        score_views=views,
    )
    data = DataConfig(false_alarm_rate=0.3)
    return Run(preset="tiny", source="tests", method="qfae", config=config, data=data)


def qfae_tensors(run: Run, sizes: Sizes) -> dict[str, Tensor]:
    """A whole state dict for that run: random, but for what is frozen or computed."""
    config: Any = run.config
    frozen: dict[str, Tensor] = build_backbone(config.encoders[0].backbone).network.state_dict()
    out, depth, _, patch = sizes.decoder
    shapes = qfae(
        {name: tuple(value.shape) for name, value in frozen.items()},
        32,
        sizes.junction,
        sizes.cross_head,
        (out, depth, 2 * out, patch * patch * 3),
    )
    grid = sizes.side // patch
    return {
        **random_values(shapes),
        **{f"encoders.0.model.{name}": value for name, value in frozen.items()},
        "decoder.decoder_pos_embed": sincos_table(out, grid, grid)[None],
    }


MVFA_VISION = {
    **{"image_size": 30, "patch_size": 7, "width": 16, "layers": 24},
    **{"head_width": 8, "mlp_ratio": 2.0},
}
MVFA_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def save_mvfa_clip(folder: Path, table: Table) -> Path:
    """The golden image tower beside a random text tower."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = open_clip.CLIP(12, MVFA_VISION, MVFA_TEXT)
    frozen = {k: v for k, v in golden_weights(table).items() if "_adapters." not in k}
    network.visual.load_state_dict(frozen)
    sizes = {"embed_dim": 12, "vision_cfg": MVFA_VISION, "text_cfg": MVFA_TEXT}
    return save_clip(folder, sizes, network)


def mvfa_run(clip: Path, setting: str) -> Run:
    backbone = ClipConfig(name="tiny/mvfa", weights=str(clip), side=30, **PLAIN)
    data = {
        "few_shot": DataConfig(
            supervision="few_shot", shots=2, support="seed:1", copies="mvfa", false_alarm_rate=0.5
        ),
        "zero_shot": DataConfig(supervision="zero_shot", false_alarm_rate=0.3),
    }[setting]
    config = MVFAConfig(setting=setting, backbone=backbone)
    return Run(preset="tiny", source="tests", method="mvfa", config=config, data=data)


def mvfa_tensors(table: Table) -> dict[str, Tensor]:
    tensors = {k: v for k, v in golden_weights(table).items() if "_adapters." in k}
    assert_layout(tensors, mvfa(16, 12))
    return tensors


IQE_VISION = {"image_size": 20, "patch_size": 5, "width": 40, "layers": 4, "head_width": 8}
IQE_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}


def save_iqe_clip(folder: Path, table: Table) -> Path:
    """The golden text tower beside a random image tower."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = open_clip.CLIP(32, IQE_VISION, IQE_TEXT)
    state = {k: v for k, v in golden_weights(table, "w.clip.").items() if "prompt" not in k}
    rows = state.pop("token_embedding.rows")
    state["token_embedding.weight"] = torch.zeros(49408, 32).index_copy(0, table["token_ids"], rows)
    network.load_state_dict(state, strict=False)
    sizes = {"embed_dim": 32, "vision_cfg": IQE_VISION, "text_cfg": IQE_TEXT}
    return save_clip(folder, sizes, network)


def iqe_run(clip: Path, setting: str) -> Run:
    config = IqeClipConfig(
        backbone=ClipConfig(name="tiny/iqe", weights=str(clip), side=20, **PLAIN),
        blocks=(0, 1, 2, 3),
        queries=QueryConfig(depth=2, heads=4, hidden=48),
        score=ScoreConfig(image="patch_mean" if setting == "zero_shot" else "map_mean"),
    )
    data = DataConfig(supervision="zero_shot", false_alarm_rate=0.3)
    return Run(preset="tiny", source="tests", method="iqe_clip", config=config, data=data)


def iqe_tensors(table: Table) -> dict[str, Tensor]:
    named = golden_weights(table)
    tensors = {
        name.removeprefix("clip."): value
        for name, value in named.items()
        if not name.startswith("clip.") or "prompt" in name
    }
    assert_layout(tensors, iqe_clip(40, 32, 48, depth=2, layers=3))
    return tensors


def assert_layout(tensors: Table, shapes: Shapes) -> None:
    """Golden files and specification agree on keys and shapes."""
    assert {name: tuple(value.shape) for name, value in tensors.items()} == shapes
