"""Recipe -> weights in open_clip's format: what `scanomaly pretrain` does."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanomaly.data.phantom.styles.style import Style
from scanomaly.errors import ConfigError, FitError
from scanomaly.pretraining.contrastive import Contrast, count_values, make_network
from scanomaly.pretraining.export import round_to_half, save_card, save_clip
from scanomaly.pretraining.pairs import Caption, Pairs
from scanomaly.pretraining.recipe import PLAN_FILE, Recipe, load_plan
from scanomaly.pretraining.retrieval import retrieval
from scanomaly.pretraining.simulated import Part, series
from scanomaly.records import Draw
from scanomaly.training import Objective, autocast, is_main_process, optimise, training_device

logger = logging.getLogger(__name__)

SLICES_FOLDER = "slices"
SCALED, AT_ONCE = 320, 32
"""Images that say how the teacher's channels are scaled, and how many of them at a time."""
TIMED_STEPS = 3
TRAINING_SHARE = 0.9
"""Of the time that is spent on what was timed; the rest is the optimiser and checkpoints."""


def pretrain(
    out: Path,
    recipe: Recipe,
    styles: Mapping[str, Style[Any]],
    caption: Caption,
    *,
    minutes: float | None = None,
    workers: int = 1,
    resume: bool = False,
) -> Path | None:
    """Simulate, train and save; returns the folder of the weights (None in a worker process).

    recipe.styles names some of `styles`. minutes: train about so long instead of recipe.fit.epochs;
    the number of epochs is measured once and then part of the plan. workers: processes that
    simulate. Raises FitError for a folder that holds something else, FitInterrupted after Ctrl-C.
    """
    chosen = _chosen(recipe, styles)
    train_part = Part(recipe.fit.seed, 0, recipe.slices)
    held_part = Part(recipe.fit.seed, train_part.after, recipe.held_out)

    def pairs(part: Part) -> Pairs:
        made = [series(style, part, out / SLICES_FOLDER, workers) for style in chosen]
        return Pairs(made, caption, part.seed)

    planned = load_plan(out)
    if is_main_process():
        _claim(out, recipe, planned, minutes is not None, resume)
    train = pairs(train_part)
    network = make_network(recipe)
    contrast = Contrast(network, recipe)
    _scale_targets(contrast, train)
    if planned is None and minutes is not None:
        planned = _lasting(recipe, contrast, train, minutes)
    recipe = planned or recipe
    if is_main_process():
        recipe.save(out)
    logger.info(
        "pretraining on %d pairs for %d epochs; %.1f million values",
        *(len(train), recipe.fit.epochs, count_values(network) / 1e6),
    )
    objective = Objective(contrast, contrast.loss, train)
    history = optimise(objective, recipe.fit, out, resume=resume)
    if not is_main_process():
        return None
    round_to_half(network.cpu())
    found = retrieval(contrast, pairs(held_part), recipe.fit.seed)
    logger.info("held-out top-1: image to text %.3f, text to image %.3f", *found[:2])
    folder = out / recipe.name  # so that `out` can serve as a folder of weights
    save_clip(network, recipe, folder)
    shown = [style.name.replace("_", " ") for style in chosen]
    save_card(recipe, found, shown, losses=history.train_loss, folder=folder)
    return folder


def _chosen(recipe: Recipe, styles: Mapping[str, Style[Any]]) -> list[Style[Any]]:
    unknown = [name for name in recipe.styles if name not in styles]
    if unknown or not recipe.styles:
        raise ConfigError(
            f"styles must be some of {', '.join(styles)}; got {', '.join(unknown) or 'none'}."
        )
    return [styles[name] for name in recipe.styles]


def _claim(out: Path, recipe: Recipe, planned: Recipe | None, measured: bool, resume: bool) -> None:
    """Make the folder this pretraining's. Raises FitError when something else is in it."""
    if planned is None:
        found = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
        if found - {SLICES_FOLDER}:
            raise FitError(f"{out} holds other files; give a new or empty folder.")
        return
    if not resume:
        raise FitError(
            f"{out} already holds a pretraining; add --resume to go on with it, or give another "
            "folder."
        )
    asked = recipe.fit.model_copy(update={"epochs": planned.fit.epochs}) if measured else recipe.fit
    if recipe.model_copy(update={"fit": asked}) != planned:
        raise FitError(
            f"{out} holds a pretraining with other options; resume with those in {PLAN_FILE}, or "
            "give another folder."
        )


def _scale_targets(contrast: Contrast, train: Pairs) -> None:
    """Over images of all styles as they are; the same in every process, and when resumed."""
    if contrast.distillation is None:
        return
    count = min(SCALED, len(train))
    draws = [Draw(None, index * len(train) // count) for index in range(count)]
    parts = [draws[first : first + AT_ONCE] for first in range(0, count, AT_ONCE)]
    batches = (train.collate([train[draw] for draw in part]) for part in parts)
    contrast.distillation.scale_to(batch.images(contrast.side) for batch in batches)


def _lasting(recipe: Recipe, contrast: Contrast, train: Pairs, minutes: float) -> Recipe:
    """The recipe with as many epochs as about so many minutes hold, at least one."""
    speed = _pairs_per_second(recipe, contrast, train)
    epochs = max(1, math.floor(minutes * 60 * speed / len(train)))
    logger.info("%.0f pairs a second: %d epochs in %g minutes", speed, epochs, minutes)
    fit = recipe.fit.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"fit": fit})


def _pairs_per_second(recipe: Recipe, contrast: Contrast, train: Pairs) -> float:
    """Of all devices together; the weights stay as they are."""
    fit = recipe.fit
    device = training_device(fit)
    contrast.to(device).train()
    size = min(fit.micro_batch, len(train))
    draws = [Draw(0, index * len(train) // size) for index in range(size)]
    times = []
    for _ in range(1 + TIMED_STEPS):
        started = time.monotonic()
        batch = train.collate([train[draw] for draw in draws])
        with autocast(device, fit.precision):
            loss = contrast.loss(batch)
        loss.backward()
        float(loss.detach())  # waits for a GPU
        contrast.zero_grad()
        times.append(time.monotonic() - started)
    return TRAINING_SHARE * size * fit.devices * fit.nodes / min(times[1:])
