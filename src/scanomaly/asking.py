"""One scan, a detector and an answerer -> answers in words, with what speaks against them.

H W pixels of the scan
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scanomaly.config.fit import Precision
from scanomaly.config.run import Run
from scanomaly.config.vqa import VqaRun
from scanomaly.data.images import as_image, read_image
from scanomaly.errors import CheckpointError, ConfigError, DataError, ScanomalyError
from scanomaly.inference import Finding, FittedDetector
from scanomaly.questions import (
    ANSWERS,
    QUESTIONS,
    UNCERTAIN_BELOW,
    Answer,
    best_first,
    certainty,
    contradicts,
    is_uncertain,
    question_of,
)
from scanomaly.records import Triple
from scanomaly.triples import Pictures, require_reconstruction, triple_pictures
from scanomaly.vqa.base import Answerer
from scanomaly.vqa.checkpoint import FittedAnswerer
from scanomaly.vqa.images import triple_images

ALTERNATIVES = 3
"""Candidates looked for where a question is open."""
CONTRARY: Mapping[bool, tuple[str, str, str]] = {
    True: ("nothing", "flags", "above"),
    False: ("something", "does not flag", "not above"),
}
"""Flagged -> what an answer says to the contrary, what the detector does, where its score is."""
STANDARD = tuple(question.text for question in QUESTIONS.values())


@dataclass(frozen=True, slots=True)
class Asked:
    """Answers about one scan beside what the detector says of it.

    threshold: the highest score that is not flagged; None where none can be flagged.
    pictures: image, map and reconstruction as the answerer saw them, uint8 (H, W, 3) each.
    detector, answerer: their runs. splits: what each was trained on and how, in words.
    weights: pretrained ones with their licences.
    """

    name: str
    detector: Run
    answerer: VqaRun
    finding: Finding
    threshold: float | None
    pictures: Pictures
    answers: tuple[Answer, ...]
    uncertain_below: float
    splits: Mapping[str, str]
    weights: tuple[str, ...]

    @property
    def certainties(self) -> tuple[float, ...]:
        """Of each answer, 0..1."""
        return tuple(certainty(answer) for answer in self.answers)

    @property
    def contradictions(self) -> tuple[str, ...]:
        return tuple(answer.contradiction for answer in self.answers if answer.contradiction)


def load_answerer(folder: Path | str, *, device: str = "auto") -> Answerer:
    """Load what `scanomaly vqa fit` made, to answer questions about many images at once:

        detector = scanomaly.load("runs/brain")
        answerer = scanomaly.load_answerer("runs/vqa")
        for batch in detector.batches(scanomaly.read_manifest("scans")):
            triple = scanomaly.Triple.of(batch, detector.predict(batch))
            answers = answerer.answer(triple, ["Is the case normal?"])

    Pictures are then at the detector's side; `ask` takes them on the file's own grid. Raises
    CheckpointError.
    """
    return FittedAnswerer.load(Path(folder), device=device).answerer


def load_both(
    detector: Path, answerer: Path, *, device: str = "auto", precision: Precision = "fp32"
) -> tuple[FittedDetector, FittedAnswerer]:
    """Raises CheckpointError, for folders given in the wrong order too, or WeightsError."""
    try:
        Run.load(detector)
    except CheckpointError:
        if _is_run(VqaRun, detector) and _is_run(Run, answerer):
            raise CheckpointError(
                f"{detector} answers questions and {answerer} is a detector; give the detector "
                f"first: scanomaly ask {answerer} {detector} IMAGE."
            ) from None
        raise
    answering = FittedAnswerer.load(answerer, device=device)
    return FittedDetector.load(detector, device=device, precision=precision), answering


def _is_run(kind: type[Run | VqaRun], folder: Path) -> bool:
    try:
        kind.load(folder)
    except ScanomalyError:
        return False
    return True


def ask(
    detector: FittedDetector,
    answerer: FittedAnswerer,
    image: Path | str | NDArray[Any],
    questions: Sequence[str] = STANDARD,
    *,
    uncertain_below: float = UNCERTAIN_BELOW,
) -> Asked:
    """Ask about one file or array, as `FittedDetector.score` takes them.

    questions: standard ones, or others, which are answered as `free`. uncertain_below: an answer of
    less `certainty` is uncertain, as is text outside the vocabulary of a closed question. Raises
    DataError for an image or question that cannot be used, ConfigError for a detector that makes
    no reconstruction.
    """
    if not 0 <= uncertain_below <= 1:
        raise ConfigError(f"expected uncertain_below from 0 to 1, got {uncertain_below:g}.")
    if not questions:
        raise DataError(f'expected at least one question, such as "{STANDARD[0]}"; got none.')
    for text in questions:
        answerer.answerer.packing.prompt(question_of(text).text)  # before anything is computed
    require_reconstruction(detector)
    finding = detector.score(image)
    pixels = _pixels(image, detector.run.data.window)
    pictures = triple_pictures(detector, pixels, finding)
    calibration = detector.calibration
    threshold = None if calibration is None else calibration.threshold
    judge = _Judge(finding, threshold, uncertain_below)
    answers = _answers(answerer.answerer, _triple(pictures, finding.id), questions)
    return Asked(
        name=finding.id if isinstance(image, np.ndarray) else str(image),
        detector=detector.run,
        answerer=answerer.run,
        finding=finding,
        threshold=threshold,
        pictures=pictures,
        answers=tuple(judge.judged(answer) for answer in answers),
        uncertain_below=uncertain_below,
        splits=_splits(detector, answerer),
        weights=tuple(dict.fromkeys((*detector.weights, *answerer.weights))),
    )


def _pixels(image: Path | str | NDArray[Any], window: tuple[float, float] | None) -> NDArray[Any]:
    """(H, W, 3) as `FittedDetector.score` reads it."""
    if isinstance(image, np.ndarray):
        return as_image(image, window)
    return read_image(Path(image), window)


def _splits(detector: FittedDetector, answerer: FittedAnswerer) -> dict[str, str]:
    parts = {"detector": detector.splits, "answerer": answerer.splits}
    return {
        f"{name}, {role}": what for name, roles in parts.items() for role, what in roles.items()
    }


def _triple(pictures: Pictures, name: str) -> Triple:
    image, anomaly_map, reconstruction = (_tensor(picture) for picture in pictures)
    return Triple(image, anomaly_map, reconstruction, (name,))


def _tensor(picture: NDArray[np.uint8]) -> Tensor:
    """uint8 (H, W, 3) to float (1, 3, H, W) in 0..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def _answers(answerer: Answerer, triple: Triple, questions: Sequence[str]) -> list[Answer]:
    """To closed questions with the probability of every answer, to open ones with alternatives."""
    (found,) = answerer.answer(triple, questions, alternatives=ALTERNATIVES)
    image, anomaly_map, reconstruction = (
        each.to(answerer.device) for each in triple_images(triple, answerer.data)
    )
    images = image, anomaly_map, reconstruction
    ranked = {
        name: _ranked(texts, answerer.candidate_scores(images, QUESTIONS[name].text, texts)[0])
        for name, texts in ANSWERS.items()
        if any(answer.question.name == name for answer in found)
    }
    return [
        replace(answer, candidates=ranked.get(answer.question.name, answer.candidates))
        for answer in found
    ]


def _ranked(texts: Sequence[str], scores: Tensor) -> tuple[tuple[str, float], ...]:
    """Texts with their scores (texts,), best first."""
    return best_first(zip(texts, scores.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class _Judge:
    """What a finding and a threshold make of an answer."""

    finding: Finding
    threshold: float | None
    uncertain_below: float

    def judged(self, answer: Answer) -> Answer:
        return replace(
            answer,
            uncertain=is_uncertain(answer, self.uncertain_below),
            contradiction=self._contradiction(answer),
        )

    def _contradiction(self, answer: Answer) -> str:
        """In words; empty where detector and text agree, or one of them tells nothing."""
        flagged = bool(self.finding.flagged)
        if self.threshold is None or not contradicts(answer.question, answer.text, flagged):
            return ""
        said, does, side = CONTRARY[flagged]
        return (
            f'"{answer.text}" to "{answer.question.text}" says {said} abnormal, but the detector '
            f"{does} the image: score {self.finding.score:.4g}, {side} its threshold "
            f"{self.threshold:.4g}."
        )
