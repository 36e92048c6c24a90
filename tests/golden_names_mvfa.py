"""The published MVFA code's state-dict names -> ours (specification, section 12)."""

from collections.abc import Mapping

from torch import Tensor

State = Mapping[str, Tensor]

HEADS = {"seg_adapters": "seg", "det_adapters": "det"}
LINEARS = {"fc1.0.weight": "down.weight", "fc2.0.weight": "up.weight"}


def renamed_adapter(state: State) -> dict[str, Tensor]:
    """One adapter. Raises KeyError for a name not in the table."""
    return {LINEARS[name]: tensor for name, tensor in state.items()}


def renamed_checkpoint(checkpoint: Mapping[str, State]) -> dict[str, Tensor]:
    """A published file, head -> its adapters' state, as the `adapters` of our detector."""
    found: dict[str, Tensor] = {}
    for head, state in checkpoint.items():
        for name, tensor in state.items():
            level, linear = name.split(".", 1)
            found[f"heads.{HEADS[head]}.{level}.{LINEARS[linear]}"] = tensor
    return found
