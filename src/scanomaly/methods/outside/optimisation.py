"""How anomalib's modules are trained by our loop: their optimisers, their schedules, our epochs."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from scanomaly.config.fit import FitOptions
from scanomaly.errors import FitError
from scanomaly.training import OwnOptimisation


def own_optimisation(module: Any, options: FitOptions, *, by_step: bool) -> OwnOptimisation:
    """The module's own optimisers at the options' learning rate.

    by_step: its schedule counts steps, not epochs. Raises FitError for options that a module
    cannot follow that takes its steps itself.
    """
    alone = not module.automatic_optimization
    if alone and (options.accumulate > 1 or options.gradient_clip is not None):
        raise FitError(
            f"{type(module).__name__} takes its optimiser's steps itself; set fit.accumulate=1 "
            "and fit.gradient_clip=null."
        )

    def optimisers(total_steps: int) -> Any:
        module.trainer = _planned(options.epochs, total_steps)
        found = module.configure_optimizers()
        first, second = found if isinstance(found, tuple) else (found, [])
        moving = list(first) if isinstance(first, list) else [first]
        set_rate(moving, second, options.learning_rate)
        forget_numpy(second)
        interval = "step" if by_step else "epoch"
        return moving, [{"scheduler": schedule, "interval": interval} for schedule in second]

    def begin(trainer: Any) -> None:
        module.trainer = trainer

    return OwnOptimisation(optimisers, begin, steps_itself=alone)


def _planned(epochs: int, total_steps: int) -> SimpleNamespace:
    """What `configure_optimizers` asks of a Trainer."""
    batches = range(total_steps // epochs)
    data = SimpleNamespace(train_dataloader=lambda: batches)
    return SimpleNamespace(max_epochs=epochs, max_steps=total_steps, datamodule=data)


def set_rate(optimisers: Sequence[Any], schedules: Sequence[Any], rate: float) -> None:
    """Bring the first group of parameters to this learning rate, all others in proportion."""
    first = optimisers[0].param_groups[0]
    share = rate / first.get("initial_lr", first["lr"])
    if share == 1:
        return
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group.update({key: group[key] * share for key in ("lr", "initial_lr") if key in group})
    for schedule in schedules:
        schedule.base_lrs = [base * share for base in schedule.base_lrs]
        if hasattr(schedule, "final_value"):  # Dinomaly's has a table of rates
            schedule.schedule, schedule.final_value = (
                schedule.schedule * share,
                schedule.final_value * share,
            )


def forget_numpy(schedules: Sequence[Any]) -> None:
    """Tables of rates as lists: checkpoints are read without running code, and hold no arrays."""
    for schedule in schedules:
        if isinstance(getattr(schedule, "schedule", None), np.ndarray):
            schedule.schedule = schedule.schedule.tolist()


def with_own_clipping(options: FitOptions, module: Any) -> FitOptions:
    """The options with the gradient clipping that the module asks for, unless one was given."""
    own = module.trainer_arguments.get("gradient_clip_val") or None
    if own is None or options.gradient_clip is not None:
        return options
    return options.model_copy(update={"gradient_clip": own})
