"""Tiny random networks saved in the real formats, so that every test takes the real road."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

Tiny = dict[str, Any]

TINY_VIT: Tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4}
TINY_DINOV2: Tiny = {"img_size": 56, "embed_dim": 24, "depth": 5, "num_heads": 3}
TINY_RESNET: Tiny = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "stem_width": 8}
TINY: dict[str, Tiny] = {
    "vit_base_patch16_224.mae": TINY_VIT,
    "vit_base_patch8_224.dino": TINY_VIT,
    "vit_base_patch16_224.augreg_in1k": TINY_VIT,
    "vit_base_patch14_reg4_dinov2.lvd142m": TINY_DINOV2,
    "vit_base_patch14_dinov2.lvd142m": TINY_DINOV2,
    "vit_base_patch32_clip_224.openai": TINY_VIT,
    "deit_tiny_distilled_patch16_224.fb_in1k": TINY_VIT,
    "resnet18.a1_in1k": TINY_RESNET,
    "tf_efficientnet_lite0.in1k": {},
}
"""timm name -> sizes that make a network of that architecture small."""


def make_network(name: str, **arguments: Any) -> nn.Module:
    """A random timm network whose every parameter matters: timm zeroes some and scales others."""
    torch.manual_seed(7)
    network = timm.create_model(name, pretrained=False, **{**TINY.get(name, {}), **arguments})
    for parameter_name, parameter in network.named_parameters():
        if parameter.ndim > 1 or parameter_name.endswith(("bias", "gamma")):
            nn.init.normal_(parameter, std=0.2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def save_folder(network: nn.Module, name: str, folder: Path) -> Path:
    """timm's own layout: config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    saved = {
        "architecture": name.split(".")[0],
        "model_args": TINY.get(name, {}),
        "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
    }
    (folder / "config.json").write_text(json.dumps(saved))
    return folder
