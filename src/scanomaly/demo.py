"""The whole path on simulated patients, offline: phantom -> fit -> evaluate -> report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from scanomaly.config.experiment import RUN_FILE
from scanomaly.config.run import Run
from scanomaly.data.manifest import read_manifest
from scanomaly.data.phantom import STYLES, write_heads, write_styles
from scanomaly.errors import ConfigError, FitError
from scanomaly.evaluation import Evaluation, evaluate
from scanomaly.fitting import fit, read_training_data
from scanomaly.presets import preset

logger = logging.getLogger(__name__)
Named = TypeVar("Named")


@dataclass(frozen=True, slots=True)
class Demo:
    """What a method is shown with. style: a key of STYLES. patients: of each simulated style.

    quick: what `--quick` changes of the preset. write: makes the data instead, one set, as
    write_phantom does.
    """

    preset: str
    style: str
    patients: int
    quick: tuple[str, ...]
    write: Callable[..., Path] | None = None


QUICK_PATIENTS = 24
QUICK_FEW = ("fit.epochs=2", "data.shots=2")
QUICK_NORMAL = ("fit.epochs=2", "fit.batch_size=16")
DEMOS: Mapping[str, Demo] = {
    "qfae": Demo("qfae-offline", "brain", 120, QUICK_NORMAL),
    "mvfa": Demo("mvfa-offline-few", "tissue", 80, QUICK_FEW),
    "iqe": Demo("iqe-offline-few", "tissue", 80, QUICK_FEW),
    "mvfa-zero": Demo("mvfa-offline-zero", "tissue", 60, ("fit.epochs=1",)),
    "iqe-zero": Demo("iqe-offline-zero", "tissue", 60, ("fit.epochs=1",)),
}
"""What `--method` may be."""
DEFAULT_METHOD = "qfae"
HEADS = Demo("qfae-offline-heads", "brain", 120, QUICK_NORMAL, write_heads)
"""Of which questions are asked."""


def run_demo(
    out: Path,
    *,
    method: str = DEFAULT_METHOD,
    style: str | None = None,
    seed: int = 0,
    quick: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, Path]:
    """Returns the evaluation and the run folder. Same seed, same numbers.

    style: a key of STYLES other than the method's own. Raises ConfigError for an unknown method or
    style, FitError when `out` already holds a demo.
    """
    demo = _known("method", method, DEMOS)
    shown = demo if style is None else replace(demo, style=style)
    return show(shown, out, seed=seed, quick=quick, progress=progress)


def show(
    demo: Demo,
    out: Path,
    *,
    seed: int = 0,
    quick: bool = False,
    steps: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, Path]:
    """The same for any demo. steps: how many there are, where more follow."""
    style = _known("style", demo.style, STYLES)
    data, run_dir = out / "phantom", out / "run"
    if (run_dir / RUN_FILE).exists():
        raise FitError(f"{out} already holds a demo; remove it or give another --out.")
    run = preset(demo.preset).with_overrides([f"fit.seed={seed}", *(demo.quick if quick else ())])
    run, styles = _aimed(run, demo.style)
    logger.info("1/%d simulating patients: %s", steps, ", ".join(STYLES[s].title for s in styles))
    patients = QUICK_PATIENTS if quick else demo.patients
    make = demo.write or partial(write_styles, styles=styles)
    make(data, patients=patients, seed=seed, progress=progress)
    dataset = None if demo.write else style.name
    logger.info("2/%d fitting %s", steps, run.preset)
    fitted = fit(run, read_training_data(run, data, dataset), run_dir)
    assert fitted is not None  # the offline presets train in one process
    logger.info("3/%d evaluating on held-out patients", steps)
    evaluation = evaluate(fitted, read_manifest(data, dataset), progress=progress)
    note = f"{style.title}: the numbers compare methods, and do not carry over to patients."
    return replace(evaluation, notes=(note, *evaluation.notes)), run_dir


def _known(kind: str, name: str, known: Mapping[str, Named]) -> Named:
    if name not in known:
        raise ConfigError(f"no {kind} {name!r} to show; there are {', '.join(known)}.")
    return known[name]


def _aimed(run: Run, style: str) -> tuple[Run, tuple[str, ...]]:
    """The run, and the styles that it needs: zero-shot learns from all but the one shown."""
    if run.data.supervision != "zero_shot":
        return run, (style,)
    return run.with_overrides([f"data.target={STYLES[style].name}"]), tuple(STYLES)
