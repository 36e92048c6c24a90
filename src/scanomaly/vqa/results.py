"""What an evaluation of an answerer gives: all that its report says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanomaly.config.vqa import VqaRun
from scanomaly.data.mivqa import VqaItem
from scanomaly.metrics import Estimate
from scanomaly.metrics.closed_answers import Confusion
from scanomaly.questions import Answer, Question, contradicts, is_uncertain

Metrics = Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class AnsweredItem:
    """One line of answers.csv. correct: of closed questions only, by class."""

    item: VqaItem
    question: Question
    truth: str
    answer: str
    log_probability: float
    correct: bool | None

    @property
    def uncertain(self) -> bool:
        """As `scanomaly ask` marks it by default."""
        return is_uncertain(Answer(self.question, self.answer, self.log_probability))

    @property
    def contradicts(self) -> bool | None:
        """Whether a closed answer contradicts the detector's flag; None where there is none."""
        if self.item.flagged is None or not self.question.closed:
            return None
        return contradicts(self.question, self.answer, self.item.flagged)


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """What came of one question.

    majority: its most frequent answer in the training split, with the metrics of always giving it.
    gain: accuracy, by class, above that; paired. None for an open question, as its confusion is.
    """

    question: Question
    items: int
    metrics: Metrics
    majority: str | None
    baseline: Metrics
    gain: Estimate | None
    confusion: Confusion | None


@dataclass(frozen=True, slots=True)
class OpenSetPart:
    """Is the case normal? asked of one set of cases: counts by truth, metrics of both answers.

    classes: "No." (unhealthy), "Yes." (healthy) and their mean -> precision, recall, f1, accuracy.
    """

    unhealthy: int
    healthy: int
    classes: Mapping[str, Metrics]
    confusion: Confusion


@dataclass(frozen=True, slots=True)
class OpenSet:
    """Kinds of anomaly that were trained on, against the six that were not (paper, Table 2)."""

    known: OpenSetPart
    unknown: OpenSetPart


@dataclass(frozen=True, slots=True)
class VqaPanel:
    """One triple with all that was asked of it; pictures uint8 (H, W, 3)."""

    kind: str
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
    rows: tuple[AnsweredItem, ...]


@dataclass(frozen=True, slots=True)
class VqaEvaluation:
    """All that a report says of an answerer."""

    run: VqaRun
    dataset: str
    splits: Mapping[str, str]
    """What each split did: trained, chose the checkpoint, scored."""
    closed: Metrics
    open: Metrics
    closed_baseline: Metrics
    """Of the majority answers."""
    open_baseline: Metrics
    gain: Estimate
    """Closed accuracy, by class, above that of the majority answers; paired."""
    nli: Mapping[str, Metrics]
    """Model -> share of open answers that entail the reference, contradict it, or neither."""
    questions: tuple[QuestionResult, ...]
    open_set: OpenSet | None
    signatures: Mapping[str, str]
    """Metric -> how exactly it is computed."""
    rows: tuple[AnsweredItem, ...]
    panels: tuple[VqaPanel, ...]
    resampled: str
    seconds_per_answer: float
    weights: tuple[str, ...]
    notes: tuple[str, ...]
    decoding: tuple[str, ...] = ()
    """Assignments that changed the decoding of the run folder's run.yaml; `run` has them."""
