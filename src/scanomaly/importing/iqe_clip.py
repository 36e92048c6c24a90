"""IQE-CLIP's layout: one dict of state dicts and parameters, as its training code saves it.

Source: specification, section 11. No checkpoint is published; files come from running that code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scanomaly.backbones.loading import Shapes
from scanomaly.config.experiment import Experiment
from scanomaly.config.mvfa import OBJECT_WORDS
from scanomaly.importing.layout import Facts, Layout, Names, count_of

ATTENTION: Names = {"attention": "self", "crossattention": "image", "text_crossattention": "text"}
FIRST, DEEP = "prompt_embeddings", "deep_prompt_embeddings"
JOINED = f"{FIRST} and {DEEP}"
"""Learned rows of the first text layer and of the others, in one tensor of ours."""
SINGLE: Names = {
    "trainable_linearlayer.fc": "levels",
    "New_Lan_Embed.prompt_query": "class_tokens.learned",
    "New_Lan_Embed.prompt_linear1.fc": "class_tokens.condition.1",
    "New_Lan_Embed.prompt_temp": "log_temperature",
    "query_tokens": "class_queries.learned",
    "query_linear.fc": "class_queries.condition.1",
    "iqm.layernorm": "instance_queries.norm",
    JOINED: "prompted_text.prompts.tokens",
    "prompt_proj": "prompted_text.prompts.projection",
    "prompt_norm": "prompted_text.prompts.norm",
}
FEED_FORWARD: Names = {
    "intermediate_query.dense": "layers.0",
    "output_query.dense": "layers.2",
    "output_query.LayerNorm": "norm",
}
FEW = re.compile(r"(?P<dataset>.+)_(?P<shots>\d+)")


def names(config: Any) -> Names:
    depth = 0 if config.queries is None else config.queries.depth
    return {**SINGLE, **{k: v for block in range(depth) for k, v in _block(block).items()}}


def _block(block: int) -> dict[str, str]:
    theirs, ours = f"iqm.encoder.layer.{block}", f"instance_queries.blocks.{block}"
    found = {
        f"{theirs}.{name}": f"{ours}.feed_forward.text.{part}"
        for name, part in FEED_FORWARD.items()
    }
    for name, source in ATTENTION.items():
        attention = f"{ours}.attention.{source}"
        for part in ("query", "key", "value"):
            found[f"{theirs}.{name}.attention.{part}"] = f"{attention}.{part}"
        found[f"{theirs}.{name}.output.dense"] = f"{attention}.output"
        found[f"{theirs}.{name}.output.LayerNorm"] = f"{attention}.norm"
    return found


def arrange(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Join the learned rows of all layers, where both parts are of one width and count."""
    parts = [tensors[name] for name in (FIRST, DEEP) if name in tensors]
    if len(parts) < 2 or len({part.shape[1:] for part in parts}) > 1:
        return tensors
    rest = {name: tensor for name, tensor in tensors.items() if name not in (FIRST, DEEP)}
    return {**rest, JOINED: torch.cat(parts)}


def facts(shapes: Shapes) -> Facts:
    deep = shapes.get(DEEP)
    return {
        "levels": count_of(shapes, r"trainable_linearlayer\.fc\.(\d+)\."),
        "config.queries.depth": count_of(shapes, r"iqm\.encoder\.layer\.(\d+)\."),
        "config.prompts.learned": 0 if deep is None else deep[1],
        "config.prompts.class_tokens": shapes.get("New_Lan_Embed.prompt_query", (1, 0))[1],
        "feed-forwards of a block": 1,
    }


def facts_of(run: Experiment, dataset: str | None) -> Facts:
    config: Any = getattr(run, "config", None)
    data: Any = getattr(run, "data", None)
    few = data.supervision == "few_shot"
    once = config.queries is None or config.queries.order == "code"
    return {
        "levels": len(config.blocks),
        "config.queries.depth": 0 if config.queries is None else config.queries.depth,
        "config.prompts.learned": config.prompts.learned,
        "config.prompts.class_tokens": config.prompts.class_tokens,
        "feed-forwards of a block": 1 if once else len(ATTENTION),
        **({"data set": dataset} if dataset else {}),
        "setting": data.supervision,
        **({"data.shots": data.shots} if few else {}),
    }


def named(file: Path) -> Facts:
    """Files are called `Brain.pth`, or few-shot `Brain_4.pth`."""
    few = FEW.fullmatch(file.stem)
    dataset = few["dataset"] if few else file.stem
    if dataset not in OBJECT_WORDS:
        return {}
    if few is None:
        return {"data set": dataset, "setting": "zero_shot"}
    return {"data set": dataset, "setting": "few_shot", "data.shots": int(few["shots"])}


IQE_CLIP = Layout(
    name="iqe-clip",
    method="iqe_clip",
    system="IQE-CLIP",
    origin="code: github.com/hongh0/IQE-CLIP (no licence stated: ask its authors)",
    trained="its support images, or zero-shot the test images of the other data sets",
    chosen="the pass with the best result on the test set: results on that set are too good",
    mark=r"trainable_linearlayer\.",
    names=names,
    facts=facts,
    facts_of=facts_of,
    left_out={
        r"iqm\..*\.attention\.key\.bias": "a bias of keys adds the same to all logits of a query, "
        "which softmax cannot see",
        r"prompt_text_projection": "saved and never used by the published code",
    },
    optional={
        r"New_Lan_Embed\.prompt_linear1\.fc\..*|query_linear\.fc\..*": "without the class feature "
        "(condition: none) nothing is made of it",
        rf"{FIRST}|{DEEP}|{JOINED}|prompt_(proj|norm)\..*": "there are no learned tokens "
        "(config.prompts.learned=0)",
    },
    made_here=r"branch_ranges",
    named=named,
    arrange=arrange,
)
