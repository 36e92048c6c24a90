"""Depthwise convolutions whose gradients are computed in fp32 on a CPU, whatever autocast says.

Their backward pass in bf16 has no fast kernel there (`python benchmarks/depthwise.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input


class _Exact:
    """In front of a class of convolutions: one that learns computes in fp32 throughout."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        convolution: Any = super()
        found: Tensor
        if not (x.is_cpu and torch.is_grad_enabled()):
            found = convolution.forward(x)
        elif self.weight.requires_grad:
            with torch.autocast("cpu", enabled=False):
                found = convolution.forward(x.float()).to(x.dtype)
        else:
            found = _Frozen.apply(x, self, convolution.forward)
        return found


class _Frozen(torch.autograd.Function):
    """A frozen convolution as it is; the gradient to its input in fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, convolution: nn.Conv2d, compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.convolution, ctx.shape, ctx.dtype = convolution, x.shape, x.dtype
        return compute(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        convolution: nn.Conv2d = ctx.convolution
        batch, channels, *sides = ctx.shape
        across, down = _borders(convolution, sides)
        padded = (batch, channels, sides[0] + sum(down), sides[1] + sum(across))
        found = conv2d_input(
            padded,
            convolution.weight.float(),
            gradient.float(),
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )
        border = [-side for side in (*across, *down)]
        return F.pad(found, border).to(ctx.dtype), None, None


def _borders(convolution: nn.Conv2d, sides: list[int]) -> list[tuple[int, int]]:
    """What timm's `same` adds before and after: to the rows' ends, then to the columns'."""
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.padding import get_same_padding

    if not isinstance(convolution, Conv2dSame):
        return [(0, 0), (0, 0)]
    added = [
        get_same_padding(side, kernel, stride, dilation)
        for side, kernel, stride, dilation in zip(
            sides, convolution.kernel_size, convolution.stride, convolution.dilation, strict=True
        )
    ]
    return [(total // 2, total - total // 2) for total in reversed(added)]


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
