"""The published QFAE code's state-dict names -> ours (specification, section 9)."""

from collections.abc import Iterator, Mapping

from torch import Tensor

State = Mapping[str, Tensor]

JUNCTION = {
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
DECODER = {
    "cls_token": "class_token",
    "reg_tokens": "register_tokens",
    "decoder_embed": "embed",
    "decoder_blocks": "blocks",
    "decoder_norm": "norm",
    "decoder_prediction": "to_pixels",
}
ENCODER = {"final_projection": "projection"}

NOT_FITTED = ("decoder_pos_embed", "model")
"""A fixed table that we compute, and the frozen encoder, which comes from timm."""

ROOMS = {"junction": ("bottleneck", JUNCTION), "decoder": ("decoder", DECODER)}
"""Published module -> (ours, names within)."""


def renamed(state: State, names: Mapping[str, str]) -> dict[str, Tensor]:
    """One module's tensors under our names. Raises KeyError for a name not in the table."""
    return {
        _replaced(name, names): tensor
        for name, tensor in state.items()
        if name.split(".")[0] not in NOT_FITTED
    }


def renamed_detector(state: State) -> dict[str, Tensor]:
    """A whole published checkpoint as our `fitted_state`, frozen weights left out."""
    return dict(_renamed_detector(state))


def _renamed_detector(state: State) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        room, rest = name.split(".", 1)
        if room == "encoders":
            index, rest = rest.split(".", 1)
            ours, names = f"encoders.{index}", ENCODER
        else:
            ours, names = ROOMS[room]
        for found, value in renamed({rest: tensor}, names).items():
            yield f"{ours}.{found}", value


def _replaced(name: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name[len(theirs) :]
    raise KeyError(f"{name} is not among {', '.join(names)}")
