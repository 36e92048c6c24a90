"""Tiny random CLIPs saved in open_clip's own format, so that every test takes the real road."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

Sizes = dict[str, Any]

NAME = "tiny-clip/test"
"""No architecture of open_clip: the sizes come from the file beside the weights."""

TINY_CLIP: Sizes = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 4, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 3},
}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def changed(**parts: Any) -> Sizes:
    """TINY_CLIP with other values: `embed_dim=8`, `vision_cfg={"layers": 2}`."""
    sizes = copy.deepcopy(TINY_CLIP)
    for part, value in parts.items():
        sizes[part] = {**sizes.get(part, {}), **value} if isinstance(value, dict) else value
    return sizes


def make_clip(sizes: Sizes = TINY_CLIP, *, quick_gelu: bool = False) -> open_clip.CLIP:
    """A random open_clip CLIP whose every parameter matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = open_clip.CLIP(**sizes, quick_gelu=quick_gelu)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 or name.endswith(("bias", "class_embedding")):
                nn.init.normal_(parameter, std=0.2)
    return network.eval()


def save_clip(
    folder: Path, sizes: Sizes = TINY_CLIP, network: nn.Module | None = None, **described: Any
) -> Path:
    """open_clip's own layout: open_clip_config.json and open_clip_model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    state = (network or make_clip(sizes)).state_dict()
    save_file(state, folder / "open_clip_model.safetensors")
    saved = {"model_cfg": sizes, "preprocess_cfg": {"mean": MEAN, "std": STD}, **described}
    (folder / "open_clip_config.json").write_text(json.dumps(saved))
    return folder
