"""The whole path on simulated patients, offline: phantom -> fit -> evaluate -> report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from scanomaly.config.run import RUN_FILE
from scanomaly.data.manifest import read_manifest
from scanomaly.data.phantom import write_phantom
from scanomaly.errors import FitError
from scanomaly.evaluation import Evaluation, evaluate
from scanomaly.fitting import fit
from scanomaly.presets import preset

logger = logging.getLogger(__name__)

PATIENTS, QUICK_PATIENTS = 120, 24
QUICK = ("fit.epochs=2", "fit.batch_size=16")


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    quick: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, Path]:
    """Returns the evaluation and the run folder. Same seed, same numbers.

    Raises FitError when `out` already holds a demo.
    """
    data, run_dir = out / "phantom", out / "run"
    if (run_dir / RUN_FILE).exists():
        raise FitError(f"{out} already holds a demo; remove it or give another --out.")
    logger.info("1/3 simulating patients on MNI152 anatomy")
    write_phantom(
        data, patients=QUICK_PATIENTS if quick else PATIENTS, seed=seed, progress=progress
    )
    manifest = read_manifest(data, None)
    run = preset("qfae-offline").with_overrides([f"fit.seed={seed}", *(QUICK if quick else ())])
    logger.info("2/3 fitting %s", run.preset)
    fitted = fit(run, manifest, run_dir)
    assert fitted is not None  # the offline preset trains in one process
    logger.info("3/3 evaluating on held-out patients")
    return evaluate(fitted, manifest, progress=progress), run_dir
