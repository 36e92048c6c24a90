"""Questions about a triple of images, the answers they may have, an answer. Loads no torch.

Source: MI-VQA, the data set of KQ-Former VQA-UAD (arXiv 2404.07622), seven questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scanomaly.errors import DataError

FREE = "free"
"""Name of a question that is none of the seven."""


@dataclass(frozen=True, slots=True)
class Question:
    """name: C1 to C3, O1 to O4, or `free`. closed: answered with one of a few classes."""

    name: str
    text: str
    closed: bool

    @property
    def key(self) -> str:
        """Tells it from every other question: the name, of a free one its text."""
        return self.text if self.name == FREE else self.name


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and how sure of it its model is.

    log_probability: natural logarithm, of the text with its end. candidates: (text,
    log-probability), best first; a greedy answer need not be the first. uncertain: its probability
    is below a threshold. contradiction: what speaks against it, in words; empty where nothing does.
    """

    question: Question
    text: str
    log_probability: float
    candidates: tuple[tuple[str, float], ...] = ()
    uncertain: bool = False
    contradiction: str = ""


QUESTIONS: Mapping[str, Question] = {
    name: Question(name, text, closed=name.startswith("C"))
    for name, text in {
        "C1": "Is the case normal?",
        "C2": "Please describe the condition of the brain.",
        "C3": "Can you comment on the severity of the pathology?",
        "O1": (
            "Are there areas in the anomaly maps that highlight a normal variation of the healthy, "
            "rather than pathological areas (false positives)?"
        ),
        "O2": (
            "Is the pseudo-healthy reconstruction a plausible restoration of the input to a "
            "healthy state?"
        ),
        "O3": "Do the anomaly maps accurately reflect the selected disease?",
        "O4": (
            "Can you describe the differences highlighted between anomaly maps and origin image "
            "and why it is the healthy region?"
        ),
    }.items()
}
"""The seven standard questions by name."""

ANSWERS: Mapping[str, tuple[str, ...]] = {
    "C1": ("No.", "Yes."),
    "C2": (
        "It's post treatment change.",
        "It's a normal brain",
        "It's mass lesion.",
        "It's lesions.",
        "It's enlarged ventricles.",
        "It's edema.",
        "It's artefacts.",
        "It's craniotomy.",
        "It's resection.",
    ),
    "C3": (
        "Clinically relevant.",
        "Potentially clinically relevant.",
        "Not applicable.",
        "Clinically irrelevant.",
    ),
}
"""Closed question -> its answers, in the order of their classes, spelled as in the data set.

Only the normal brain is published without its dot.
"""

NORMAL: Mapping[str, int] = {"C1": 1, "C2": 1, "C3": 2}
"""Closed question -> the class that says that nothing is wrong."""

UNSEEN_TYPES = (
    "dural thickening",
    "white matter lesion",
    "sinus opacification",
    "encephalomalacia",
    "intraventricular substance",
    "absent septum pellucidum",
)
"""Kinds of anomaly that the paper's open-set experiment does not train on."""

UNCERTAIN_BELOW = 0.5
"""Default threshold of `certainty`. Closed questions: below one half, all other answers together
are as likely. Open ones: on average each next word was no more likely than all others together."""

_OTHER_SPELLINGS: Mapping[str, Mapping[str, int]] = {
    "C3": {"potentiallyclinicallyrelevant": 1},
}


def _squeezed(text: str) -> str:
    return "".join(text.split()).lower()


_CLASSES: Mapping[str, Mapping[str, int]] = {
    name: {_squeezed(answer): index for index, answer in enumerate(answers)}
    | dict(_OTHER_SPELLINGS.get(name, {}))
    for name, answers in ANSWERS.items()
}
_NAMES: Mapping[str, str] = {question.text: name for name, question in QUESTIONS.items()}
_UNSEEN = frozenset(_squeezed(kind) for kind in UNSEEN_TYPES)


def classify(name: str, text: str) -> int | None:
    """The class of an answer to the closed question `name`; None for text outside its vocabulary.

    White space and case do not count, dots do, as published. Raises KeyError for an open question.
    """
    return _CLASSES[name].get(_squeezed(text))


def certainty(answer: Answer) -> float:
    """How sure an answer is, 0..1.

    A closed question: the probability of the whole answer. Any other: that of a word, the end
    counted as one, as a geometric mean; the whole would fall with every word and every equally good
    wording.
    """
    words = 1 if answer.question.closed else len(answer.text.split()) + 1
    return math.exp(min(0.0, answer.log_probability) / words)


def is_uncertain(answer: Answer, below: float = UNCERTAIN_BELOW) -> bool:
    """Whether its certainty is less, or its text outside the vocabulary of a closed question."""
    question = answer.question
    outside = question.closed and classify(question.name, answer.text) is None
    return outside or certainty(answer) < below


def best_first(candidates: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """(text, log-probability) pairs, the likeliest before the others."""
    return tuple(sorted(candidates, key=lambda candidate: -candidate[1]))


def contradicts(question: Question, text: str, flagged: bool) -> bool:
    """Whether a closed answer says normal of an image that is flagged, or abnormal of another."""
    found = classify(question.name, text) if question.closed else None
    return found is not None and (found == NORMAL[question.name]) == flagged


def question_of(text: str) -> Question:
    """The standard question with this text, white space around it aside, else a free one.

    Raises DataError for a text without any word.
    """
    stripped = text.strip()
    if not stripped:
        raise DataError(
            f'expected a question, got an empty text; ask for example "{QUESTIONS["C1"].text}".'
        )
    name = _NAMES.get(stripped)
    return QUESTIONS[name] if name else Question(FREE, stripped, closed=False)


def is_unseen(category: str) -> bool:
    """Whether a category, such as `dural_thickening`, is one of UNSEEN_TYPES."""
    return _squeezed(category.replace("_", " ").replace("-", " ")) in _UNSEEN
