"""The one gradient loop. Methods call it; it never calls methods. Lightning loads when it runs."""

from __future__ import annotations

from pathlib import Path

from scanomaly.config.fit import FitOptions
from scanomaly.training.objective import (
    AUTOCAST,
    Criterion,
    History,
    Objective,
    OwnOptimisation,
    TrainingData,
    autocast,
    is_main_process,
    training_device,
)

__all__ = [
    "AUTOCAST",
    "Criterion",
    "History",
    "Objective",
    "OwnOptimisation",
    "TrainingData",
    "autocast",
    "is_main_process",
    "optimise",
    "training_device",
]


def optimise(
    objective: Objective, options: FitOptions, run_dir: Path, *, resume: bool = False
) -> History:
    """Minimise the objective; the model holds the kept weights afterwards.

    Writes `checkpoints/` and `logs/` under run_dir. With `resume`, goes on from the last finished
    epoch. Raises FitInterrupted after Ctrl-C and FitError for weights that are not finite.
    """
    from scanomaly.training.loop import run_loop

    return run_loop(objective, options, run_dir, resume=resume)
