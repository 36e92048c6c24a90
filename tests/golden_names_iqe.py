"""The published IQE-CLIP code's state-dict names -> ours (specification, section 11)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from golden_names import renamed

State = Mapping[str, Tensor]

ATTENTION = {"attention": "self", "crossattention": "image", "text_crossattention": "text"}
CLASS_TOKENS = {"prompt_query": "learned", "prompt_linear1.fc": "condition.1"}
PROMPTS = {"prompt_proj": "projection", "prompt_norm": "norm"}
DETECTOR = {
    "trainable_linearlayer.fc": "levels",
    "New_Lan_Embed.prompt_query": "class_tokens.learned",
    "New_Lan_Embed.prompt_linear1.fc": "class_tokens.condition.1",
    "New_Lan_Embed.prompt_temp": "log_temperature",
    "query_tokens": "class_queries.learned",
    "query_linear.fc": "class_queries.condition.1",
}


def block_names(block: int) -> dict[str, str]:
    """Of one block of the published query transformer."""
    theirs, ours = f"encoder.layer.{block}", f"blocks.{block}"
    names = {
        f"{theirs}.intermediate_query.dense": f"{ours}.feed_forward.text.layers.0",
        f"{theirs}.output_query.dense": f"{ours}.feed_forward.text.layers.2",
        f"{theirs}.output_query.LayerNorm": f"{ours}.feed_forward.text.norm",
    }
    for name, source in ATTENTION.items():
        attention = f"{ours}.attention.{source}"
        for part in ("query", "key", "value"):
            names[f"{theirs}.{name}.attention.{part}"] = f"{attention}.{part}"
        names[f"{theirs}.{name}.output.dense"] = f"{attention}.output"
        names[f"{theirs}.{name}.output.LayerNorm"] = f"{attention}.norm"
    return names


def renamed_queries(state: State) -> dict[str, Tensor]:
    """The published `iqm`; biases of keys are left out, for softmax cannot see them."""
    blocks = {int(name.split(".")[2]) for name in state if name.startswith("encoder.")}
    names = {"layernorm": "norm"}
    for block in blocks:
        names |= block_names(block)
    return renamed({k: v for k, v in state.items() if not k.endswith(".key.bias")}, names)


def renamed_prompts(state: State) -> dict[str, Tensor]:
    """The `prompt*` entries of the published CLIP; its `prompt_text_projection` is never used."""
    rows = torch.cat([state["prompt_embeddings"], state["deep_prompt_embeddings"]])
    own = {k: v for k, v in state.items() if k.startswith(tuple(PROMPTS))}
    return {"tokens": rows, **renamed(own, PROMPTS)}


def renamed_detector(state: State) -> dict[str, Tensor]:
    """A whole published checkpoint, its nested keys joined by dots, as our trained tensors."""
    return dict(_renamed_detector(state))


def _renamed_detector(state: State) -> Iterator[tuple[str, Tensor]]:
    for theirs, ours, rename in (
        ("iqm.", "instance_queries", renamed_queries),
        ("clip.", "prompted_text.prompts", renamed_prompts),
    ):
        part = {k.removeprefix(theirs): v for k, v in state.items() if k.startswith(theirs)}
        for name, tensor in rename(part).items():
            yield f"{ours}.{name}", tensor
    rest = {k: v for k, v in state.items() if not k.startswith(("iqm.", "clip."))}
    yield from renamed(rest, DETECTOR).items()
