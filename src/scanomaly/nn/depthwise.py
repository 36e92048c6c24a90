"""Depthwise convolutions that train in fp32 on a CPU, whatever autocast says.

Their backward pass in bf16 has no fast kernel there (`python benchmarks/depthwise.py`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class _Exact:
    """In front of a class of convolutions: values in fp32, given back as they came."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        convolution: Any = super()
        if not (x.is_cpu and torch.is_grad_enabled() and self.weight.requires_grad):
            return convolution.forward(x)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            found: Tensor = convolution.forward(x.float())
        return found.to(x.dtype)


@cache
def _exact(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return type(f"Exact{kind.__name__}", (_Exact, kind), {})


def with_exact_depthwise(network: nn.Module) -> nn.Module:
    """The same network, parameters and names; its depthwise convolutions are changed in place."""
    convolutions = (each for each in network.modules() if isinstance(each, nn.Conv2d))
    for each in convolutions:
        if each.groups == each.in_channels > 1 and not isinstance(each, _Exact):
            kind: Any = type(each)
            each.__class__ = _exact(kind)
    return network
