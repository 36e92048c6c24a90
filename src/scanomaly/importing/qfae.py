"""QFAE's published layout: one state dict of the whole model, the frozen encoder included.

Source: specification, section 9; 445 entries for one encoder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanomaly.backbones.loading import Shapes
from scanomaly.config.experiment import Experiment
from scanomaly.importing.layout import Facts, Layout, Names, count_of

JUNCTION: Names = {
    "queries": "queries",
    "blocks.0.attn.Wqkv": "self_attention.query_key_value",
    "blocks.0.attn.out_proj": "self_attention.output",
    "blocks.0.cross_attn.null_kv": "cross_attention.null_key_value",
    "blocks.0.cross_attn.norm": "cross_attention.input_norm",
    "blocks.0.cross_attn.to_q": "cross_attention.query",
    "blocks.0.cross_attn.to_kv": "cross_attention.key_value",
    "blocks.0.cross_attn.to_out.0": "cross_attention.output",
    "blocks.0.cross_attn.to_out.1": "cross_attention.output_norm",
    "blocks.0.projection": "feed_forward",
}
DECODER: Names = {
    "cls_token": "class_token",
    "reg_tokens": "register_tokens",
    "decoder_pos_embed": "positions",
    "decoder_embed": "embed",
    "decoder_blocks": "blocks",
    "decoder_norm": "norm",
    "decoder_prediction": "to_pixels",
}
FOLDERS: Mapping[str, str] = {
    "brain": "brain",
    "chest": "chest",
    "liver": "liver",
    "retina": "resc",
}
"""Folder of a published file -> the middle of its preset's name."""


def names(config: Any) -> Names:
    encoders = range(len(config.encoders))
    return {
        **{f"encoders.{i}.final_projection": f"encoders.{i}.projection" for i in encoders},
        **{f"encoders.{i}.model": f"encoders.{i}.backbone.network" for i in encoders},
        **{f"junction.{theirs}": f"bottleneck.{ours}" for theirs, ours in JUNCTION.items()},
        **{f"decoder.{theirs}": f"decoder.{ours}" for theirs, ours in DECODER.items()},
    }


def facts(shapes: Shapes) -> Facts:
    found: dict[str, Any] = {"encoders": count_of(shapes, r"encoders\.(\d+)\.")}
    if "junction.queries" in shapes:
        found["config.junction.queries"], found["config.junction.width"] = shapes[
            "junction.queries"
        ][1:]
    found["config.decoder.depth"] = count_of(shapes, r"decoder\.decoder_blocks\.(\d+)\.")
    pixels = shapes.get("decoder.decoder_prediction.bias", (0,))[0]
    for channels in (3, 1):
        side = math.isqrt(pixels // channels)
        if side and side * side * channels == pixels:
            return {**found, "config.decoder.patch": side, "config.decoder.channels": channels}
    return found


def facts_of(run: Experiment, dataset: str | None) -> Facts:
    config: Any = getattr(run, "config", None)
    known = re.match(r"qfae-(brain|chest|liver|resc)\b", run.preset)
    return {
        "encoders": len(config.encoders),
        "config.junction.queries": config.junction.queries,
        "config.junction.width": config.junction.width,
        "config.decoder.depth": config.decoder.depth,
        "config.decoder.patch": config.decoder.patch,
        "config.decoder.channels": config.decoder.channels,
        **({"data set": known[1]} if known else {}),
    }


def named(file: Path) -> Facts:
    folder = file.resolve().parent.name.lower()
    return {"data set": FOLDERS[folder]} if folder in FOLDERS else {}


QFAE = Layout(
    name="qfae",
    method="qfae",
    system="QFAE",
    origin="code: github.com/francescodalmonte/QFAE (MIT); weights: ebayar/QFAE-checkpoints on the "
    "Hugging Face hub, see the licence there",
    trained="all normal training images of its data set",
    chosen="the checkpoint written last",
    mark=r"junction\.",
    names=names,
    facts=facts,
    facts_of=facts_of,
    left_out={},
    optional={},
    named=named,
)
