"""Which optimiser moves which parameters, and how its learning rate goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, OneCycleLR

from scanomaly.config.fit import FitOptions

LOWEST_RATE = 1e-8
"""Where warm_up_cosine begins and ends (KQ-Former specification, section 8)."""
OPTIMISERS: Mapping[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}


def parameter_groups(model: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Trainable parameters, those with a learning rate of their own apart."""
    groups: dict[float | None, list[nn.Parameter]] = {None: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = next((rate for start, rate in rates.items() if name.startswith(start)), None)
            groups.setdefault(own, []).append(parameter)
    return [
        {"params": parameters} | ({} if rate is None else {"lr": rate})
        for rate, parameters in groups.items()
        if parameters
    ]


def optimiser_and_schedule(
    groups: Iterable[Any], options: FitOptions, total_steps: int
) -> dict[str, Any]:
    """The optimiser and its schedule, stepped per optimiser step."""
    optimiser = OPTIMISERS[options.optimiser](
        groups, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay
    )
    schedule = SCHEDULES[options.schedule](optimiser, options, total_steps)
    return {
        "optimizer": optimiser,
        "lr_scheduler": {"scheduler": schedule, "interval": "step"},
    }


def _one_cycle(optimiser: Optimizer, options: FitOptions, total_steps: int) -> LRScheduler:
    """beta1 cycles 0.95 -> 0.85 -> 0.95."""
    share = options.warm_up
    if share * total_steps == 1:
        share *= 1 + 1e-9  # a warm-up of exactly one step divides by zero in torch
    rates = [group["lr"] for group in optimiser.param_groups]
    return OneCycleLR(optimiser, max_lr=rates, total_steps=total_steps, pct_start=share)


def _constant(optimiser: Optimizer, options: FitOptions, total_steps: int) -> LRScheduler:
    return ConstantLR(optimiser, factor=1.0)


def _warm_up_cosine(optimiser: Optimizer, options: FitOptions, total_steps: int) -> LRScheduler:
    """Linear up from LOWEST_RATE in whole steps, a half cosine down to it over the rest."""
    rising = int(options.warm_up * total_steps)
    rates = [group["lr"] for group in optimiser.param_groups]
    return LambdaLR(optimiser, [partial(_warm_up_share, r, rising, total_steps) for r in rates])


def _warm_up_share(highest: float, rising: int, total: int, step: int) -> float:
    """Of the highest learning rate, at a step counted from 0."""
    if step < rising:
        height = step / rising
    else:
        done = min(1.0, (step - rising) / (total - rising))
        height = (1 + math.cos(math.pi * done)) / 2
    return (LOWEST_RATE + (highest - LOWEST_RATE) * height) / highest


SCHEDULES: Mapping[str, Callable[[Optimizer, FitOptions, int], LRScheduler]] = {
    "one_cycle": _one_cycle,
    "constant": _constant,
    "warm_up_cosine": _warm_up_cosine,
}
