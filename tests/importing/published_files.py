"""Exact keys and shapes of the four published layouts, from the specifications, at any size.

Written apart from `scanomaly.importing`, which is tested with them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def linears(table: Mapping[str, Shape]) -> Shapes:
    return {
        **{f"{name}.weight": shape for name, shape in table.items()},
        **{f"{name}.bias": shape[:1] for name, shape in table.items()},
    }


def norms(names: Iterable[str], width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for name in names for part in ("weight", "bias")}


def batch_norm(name: str, width: int, *, affine: bool) -> Shapes:
    found: Shapes = {f"{name}.{part}": (width,) for part in ("running_mean", "running_var")}
    found[f"{name}.num_batches_tracked"] = ()
    return found | (norms([name], width) if affine else {})


def vit_blocks(start: str, depth: int, width: int, hidden: int, *, scale: bool = False) -> Shapes:
    found: Shapes = {}
    for block in (f"{start}.{index}" for index in range(depth)):
        found |= linears(
            {
                f"{block}.attn.qkv": (3 * width, width),
                f"{block}.attn.proj": (width, width),
                f"{block}.mlp.fc1": (hidden, width),
                f"{block}.mlp.fc2": (width, hidden),
            }
        )
        found |= norms([f"{block}.norm1", f"{block}.norm2"], width)
        if scale:
            found |= {f"{block}.{part}.gamma": (width,) for part in ("ls1", "ls2")}
    return found


def dinov2_large(start: str) -> Shapes:
    """The frozen encoder in QFAE's files (section 9)."""
    return {
        f"{start}.cls_token": (1, 1, 1024),
        f"{start}.reg_token": (1, 4, 1024),
        f"{start}.pos_embed": (1, 256, 1024),
        f"{start}.patch_embed.proj.weight": (1024, 3, 14, 14),
        f"{start}.patch_embed.proj.bias": (1024,),
        **vit_blocks(f"{start}.blocks", 24, 1024, 4096, scale=True),
        **norms([f"{start}.norm"], 1024),
    }


def qfae(
    encoder: Shapes | None = None,
    tokens: int = 1024,
    junction: tuple[int, int, int, int] = (784, 768, 8, 3072),
    cross_head: int = 64,
    decoder: tuple[int, int, int, int] = (768, 6, 3072, 192),
) -> Shapes:
    """Section 9. encoder: keys without `encoders.0.model.`, its tokens `tokens` wide.

    junction: queries, width, heads, hidden. decoder: width, depth, hidden, values of a patch.
    """
    start = "junction.blocks.0"
    queries, width, heads, hidden = junction
    out, depth, out_hidden, pixels = decoder
    inner = heads * cross_head
    frozen = (
        dinov2_large("encoders.0.model")
        if encoder is None
        else {f"encoders.0.model.{name}": shape for name, shape in encoder.items()}
    )
    return {
        **frozen,
        **linears(
            {
                "encoders.0.final_projection": (width, tokens),
                f"{start}.attn.Wqkv": (width + 2 * (width // heads), width),
                f"{start}.attn.out_proj": (width, width),
                f"{start}.projection.1": (hidden, width),
                f"{start}.projection.3": (width, hidden),
                "decoder.decoder_embed": (out, width),
                "decoder.decoder_prediction": (pixels, out),
            }
        ),
        **norms(
            [f"{start}.cross_attn.norm", f"{start}.cross_attn.to_out.1", f"{start}.projection.0"],
            width,
        ),
        **norms(["decoder.decoder_norm"], out),
        "junction.queries": (1, queries, width),
        f"{start}.cross_attn.null_kv": (2, cross_head),
        f"{start}.cross_attn.to_q.weight": (inner, width),
        f"{start}.cross_attn.to_kv.weight": (2 * inner, width),
        f"{start}.cross_attn.to_out.0.weight": (width, inner),
        "decoder.cls_token": (1, 1, out),
        "decoder.reg_tokens": (1, 4, out),
        "decoder.decoder_pos_embed": (1, queries, out),
        **vit_blocks("decoder.decoder_blocks", depth, out, out_hidden),
    }


def mvfa(width: int = 1024, bottleneck: int = 768, levels: int = 4) -> Shapes:
    """Section 12."""
    return {
        f"{head}_adapters.{level}.{linear}.0.weight": shape
        for head in ("seg", "det")
        for level in range(levels)
        for linear, shape in (("fc1", (bottleneck, width)), ("fc2", (width, bottleneck)))
    }


def iqe_clip(
    tokens: int = 1024,
    width: int = 768,
    hidden: int = 3072,
    depth: int = 4,
    levels: int = 4,
    layers: int = 12,
    learned: int = 1,
) -> Shapes:
    """Section 11."""
    table: dict[str, Shape] = {
        f"trainable_linearlayer.fc.{level}": (width, tokens) for level in range(levels)
    }
    table |= {"New_Lan_Embed.prompt_linear1.fc": (2, 1, 3), "query_linear.fc": (2, 1, 3)}
    names = ["iqm.layernorm", "prompt_norm"]
    for block in (f"iqm.encoder.layer.{index}" for index in range(depth)):
        for kind in ("attention", "crossattention", "text_crossattention"):
            parts = ("attention.query", "attention.key", "attention.value", "output.dense")
            table |= {f"{block}.{kind}.{part}": (width, width) for part in parts}
            names.append(f"{block}.{kind}.output.LayerNorm")
        table[f"{block}.intermediate_query.dense"] = (hidden, width)
        table[f"{block}.output_query.dense"] = (width, hidden)
        names.append(f"{block}.output_query.LayerNorm")
    return {
        **linears({**table, "prompt_proj": (width, width)}),
        **norms(names, width),
        "New_Lan_Embed.prompt_query": (1, 2, width),
        "New_Lan_Embed.prompt_temp": (),
        "query_tokens": (1, 2, width),
        "prompt_embeddings": (1, learned, width),
        "deep_prompt_embeddings": (layers - 1, learned, width),
        "prompt_text_projection": (width, width),
    }


def vit(start: str, width: int, depth: int, hidden: int, patch: int, tokens: int) -> Shapes:
    return {
        f"{start}.cls_token": (1, 1, width),
        f"{start}.pos_embed": (1, tokens, width),
        f"{start}.patch_embed.proj.weight": (width, 3, patch, patch),
        f"{start}.patch_embed.proj.bias": (width,),
        **vit_blocks(f"{start}.blocks", depth, width, hidden),
        **norms([f"{start}.norm"], width),
    }


def resnet_50(start: str) -> Shapes:
    """torchvision's, without the classifier."""
    found: Shapes = {f"{start}.conv1.weight": (64, 3, 7, 7)}
    found |= batch_norm(f"{start}.bn1", 64, affine=True)
    entering = 64
    for layer, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for index in range(blocks):
            block, leaving = f"{start}.layer{layer}.{index}", 4 * width
            convolutions = {
                "conv1": (width, entering, 1, 1),
                "conv2": (width, width, 3, 3),
                "conv3": (leaving, width, 1, 1),
            }
            if index == 0:
                convolutions["downsample.0"] = (leaving, entering, 1, 1)
            for name, shape in convolutions.items():
                found[f"{block}.{name}.weight"] = shape
                norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
                found |= batch_norm(f"{block}.{norm}", shape[0], affine=True)
            entering = leaving
    return found


def head(start: str, width: int, hidden: int, to: int, *, kernel: bool) -> Shapes:
    """Convolution (or linear), batch norm, ReLU, convolution, batch norm without affine."""
    more = (1,) if kernel else ()
    return {
        **linears({f"{start}.0": (hidden, width, *more), f"{start}.3": (to, hidden, *more)}),
        **batch_norm(f"{start}.1", hidden, affine=True),
        **batch_norm(f"{start}.4", to, affine=False),
    }


def bert(start: str, width: int, hidden: int, layers: int, positions: int, words: int) -> Shapes:
    found: Shapes = {
        f"{start}.embeddings.position_ids": (1, positions),
        f"{start}.embeddings.word_embeddings.weight": (words, width),
        f"{start}.embeddings.position_embeddings.weight": (positions, width),
        **norms([f"{start}.embeddings.LayerNorm"], width),
    }
    for layer in (f"{start}.encoder.layer.{index}" for index in range(layers)):
        for kind in ("attention", "crossattention"):
            parts = [f"{layer}.{kind}.self.{part}" for part in ("query", "key", "value")]
            found |= linears(dict.fromkeys([*parts, f"{layer}.{kind}.output.dense"], (width,) * 2))
            found |= norms([f"{layer}.{kind}.output.LayerNorm"], width)
        found |= linears(
            {
                f"{layer}.intermediate.dense": (hidden, width),
                f"{layer}.output.dense": (width, hidden),
            }
        )
        found |= norms([f"{layer}.output.LayerNorm"], width)
    return found


def gpt2(start: str, width: int, layers: int, positions: int, words: int) -> Shapes:
    """transformers keeps these linear maps as (in, out)."""
    found: Shapes = {
        f"{start}.transformer.wte.weight": (words, width),
        f"{start}.transformer.wpe.weight": (positions, width),
        f"{start}.lm_head.weight": (words, width),
        **norms([f"{start}.transformer.ln_f"], width),
    }
    for block in (f"{start}.transformer.h.{index}" for index in range(layers)):
        for name, shape in {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "crossattention.q_attn": (width, width),
            "crossattention.c_attn": (width, 2 * width),
            "crossattention.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }.items():
            found |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[1:]}
        found |= norms([f"{block}.{ln}" for ln in ("ln_1", "ln_2", "ln_cross_attn")], width)
    return found


def kq_former(encoder: str = "vit", *, former: bool = True) -> Shapes:
    """Section 13, full size."""
    width, rows = (768, 591) if encoder == "vit" else (1024, 1086)
    pooled = 768 if encoder == "vit" else 2048
    found = {
        **(
            vit("img_encoder_q.model", 768, 12, 3072, 16, 197)
            if encoder == "vit"
            else resnet_50("img_encoder_q.model")
        ),
        **head("img_encoder_q.embed_0.head", pooled, 2048, 128, kernel=False),
        **head("img_encoder_q.embed_1.head", width, 2048, 768, kernel=True),
        **linears({"embed_img.0": (128, rows, 1), "embed_img.1": (96, 128, 1)}),
        **gpt2("decoder", 768, 12, 1024, 50257),
    }
    if encoder != "vit":
        found |= linears({"embed_img2": (768, 1024, 1)})
    if former:
        found |= bert("qformer.model", 768, 3072, 6, 512, 28996)
        found |= head("qformer.embed_0.head", 768, 2048, 128, kernel=False)
        found |= head("qformer.embed_1.head", 768, 2048, 768, kernel=True)
    return found


# Files


def random_values(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.zeros(shape, dtype=torch.int64)
        if name.endswith(("position_ids", "num_batches_tracked"))
        else torch.rand(shape, generator=generator) * 0.4 + 0.05
        for name, shape in shapes.items()
    }


def nested(tensors: Mapping[str, Tensor], *parts: str) -> dict[str, Any]:
    """Keys that begin with one of `parts` and a dot as state dicts of their own."""
    content: dict[str, Any] = {}
    for name, tensor in tensors.items():
        part = name.partition(".")[0]
        if part in parts and "." in name:
            content.setdefault(part, OrderedDict())[name.removeprefix(f"{part}.")] = tensor
        else:
            content[name] = tensor
    return content


def mvfa_content(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return nested(tensors, "seg_adapters", "det_adapters")


def iqe_content(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parts as state dicts, all other entries as pickled Parameters."""
    content = nested(tensors, "trainable_linearlayer", "New_Lan_Embed", "iqm", "query_linear")
    return {
        name: nn.Parameter(value) if isinstance(value, Tensor) else value
        for name, value in content.items()
    }


def saved(content: Any, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file
