"""The demo goes on in words, offline: heads -> detector -> triples -> answerer -> answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scanomaly.asking import Asked, ask
from scanomaly.data.manifest import read_manifest
from scanomaly.data.mivqa import read_corpus
from scanomaly.data.phantom import write_question_heads
from scanomaly.demo import HEADS, show
from scanomaly.errors import FitError
from scanomaly.evaluation import Evaluation
from scanomaly.inference import FittedDetector
from scanomaly.presets import vqa_preset
from scanomaly.triples import make_triples
from scanomaly.vqa.evaluation import evaluate
from scanomaly.vqa.fitting import fit
from scanomaly.vqa.results import VqaEvaluation

logger = logging.getLogger(__name__)

STEPS = 8
PATIENTS, QUICK_PATIENTS = 400, 20
"""To ask questions about; the detector has its own."""
QUICK = ("fit.epochs=8", "fit.batch_size=4")


@dataclass(frozen=True, slots=True)
class VqaDemo:
    """What the demo made. asked: one test scan that the answerer did not learn from."""

    detector: Evaluation
    detector_run: Path
    answers: VqaEvaluation
    answerer_run: Path
    asked: Asked


def run_vqa_demo(
    out: Path,
    *,
    seed: int = 0,
    quick: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> VqaDemo:
    """The plain demo on heads with a skull, and answers about other patients on top of it.

    Same seed, same numbers. Raises FitError when `out` already holds a demo.
    """
    questions, mivqa, answerer_run = out / "phantom-vqa", out / "mivqa", out / "run-vqa"
    if answerer_run.exists():
        raise FitError(f"{out} already holds a demo; remove it or give another --out.")
    evaluation, detector_run = show(
        HEADS, out, seed=seed, quick=quick, steps=STEPS, progress=progress
    )
    _step(4, "simulating patients to ask about")
    patients = QUICK_PATIENTS if quick else PATIENTS
    write_question_heads(questions, patients=patients, seed=seed, progress=progress)
    _step(5, "making triples with the detector")
    detector = FittedDetector.load(detector_run)
    manifest = read_manifest(questions)
    make_triples(detector, manifest, mivqa, seed=seed, progress=progress)
    corpus = read_corpus(mivqa)
    run = vqa_preset("kqf-offline").with_overrides([f"fit.seed={seed}", *(QUICK if quick else ())])
    _step(6, f"fitting {run.preset}")
    fitted = fit(run, corpus, answerer_run)
    assert fitted is not None  # the offline preset trains in one process
    _step(7, "asking the questions of held-out patients")
    answers = evaluate(fitted, corpus, progress=progress)
    _step(8, "asking about one of their scans")
    scan = next(iter(manifest.split("test").abnormals()))
    asked = ask(detector, fitted, scan.path)
    return VqaDemo(evaluation, detector_run, answers, answerer_run, asked)


def _step(number: int, what: str) -> None:
    logger.info("%d/%d %s", number, STEPS, what)
