"""Answers about one scan -> answers.json and answers.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanomaly.files import write_text
from scanomaly.questions import FREE, best_first
from scanomaly.report.page import PageHead, render, require_extra
from scanomaly.report.pictures import encoded, picture_of
from scanomaly.report.tables import DISCLAIMER
from scanomaly.report.vqa import PICTURES
from scanomaly.report.vqa_tables import EMPTY, probability, verdict_words

if TYPE_CHECKING:
    from scanomaly.asking import Asked
    from scanomaly.questions import Answer

ASKED_FORMAT = 1
TEMPLATE = "asked.html.j2"
CANDIDATES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """One answer in words. candidates: (text, probability), best first, the answer among them.

    A text is EMPTY where there is none.
    """

    question: str
    free: bool
    text: str
    probability: str
    certainty: str
    uncertain: bool
    candidates: Sequence[tuple[str, str]]


def write_answers(asked: Asked, folder: Path) -> Path:
    """Write answers.json and answers.html; returns the second one's path.

    Raises DiskError, and MissingExtraError after the first, which needs no extra, is safe.
    """
    write_text(folder / "answers.json", answers_json(asked))
    path = folder / "answers.html"
    require_extra(path, "answers.json")
    write_text(path, answers_html(asked))
    return path


def answers_json(asked: Asked) -> str:
    """The text of answers.json: all that is known, the pictures aside."""
    finding = asked.finding
    content = {
        "format": ASKED_FORMAT,
        "kind": "answers",
        "disclaimer": DISCLAIMER,
        "image": asked.name,
        "detector": {
            "score": finding.score,
            "threshold": asked.threshold,
            "p_value": finding.p_value,
            "flagged": finding.flagged,
        },
        "uncertain_below": asked.uncertain_below,
        "answers": [
            _answer(answer, certainty)
            for answer, certainty in zip(asked.answers, asked.certainties, strict=True)
        ],
        "contradictions": list(asked.contradictions),
        "presets": {"detector": asked.detector.preset, "answerer": asked.answerer.preset},
        "splits": dict(asked.splits),
        "weights": list(asked.weights),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _answer(answer: Answer, certainty: float) -> dict[str, Any]:
    return {
        "name": answer.question.name,
        "question": answer.question.text,
        "answer": answer.text,
        "log_probability": answer.log_probability,
        "certainty": certainty,
        "uncertain": answer.uncertain,
        "contradiction": answer.contradiction,
        "candidates": [
            {"answer": text, "log_probability": score} for text, score in answer.candidates
        ],
    }


def answer_lines(asked: Asked) -> list[AnswerLine]:
    """Each question with its answer, as people read it."""
    return [
        AnswerLine(
            question=answer.question.text,
            free=answer.question.name == FREE,
            text=answer.text or EMPTY,
            probability=probability(answer.log_probability),
            certainty=f"{100 * certainty:.0f} %",
            uncertain=answer.uncertain,
            candidates=[(text or EMPTY, probability(score)) for text, score in _shown(answer)],
        )
        for answer, certainty in zip(asked.answers, asked.certainties, strict=True)
    ]


def _shown(answer: Answer) -> tuple[tuple[str, float], ...]:
    """The best candidates, and the answer itself where it is none of them."""
    shown = answer.candidates[:CANDIDATES_SHOWN]
    if any(text == answer.text for text, _ in shown):
        return shown
    return best_first((*shown, (answer.text, answer.log_probability)))


def verdict(asked: Asked) -> str:
    """What the detector says: score, threshold, p-value and flag, as far as it is calibrated."""
    finding = asked.finding
    flagged = None if asked.threshold is None else finding.flagged
    words = verdict_words(finding.score, asked.threshold, finding.p_value, flagged)
    if asked.threshold is None and finding.flagged is not None:
        words += ", calibrated on too few healthy images to flag any score"
    return words


def answers_html(asked: Asked) -> str:
    """The text of answers.html. Needs jinja2."""
    uris = encoded([picture_of(picture) for picture in asked.pictures])
    facts = {
        "Detector": f"{asked.detector.preset} (method {asked.detector.method})",
        "Its verdict": verdict(asked),
        "Answerer": asked.answerer.preset,
    }
    context = {
        "evaluation": PageHead(
            dataset=Path(asked.name).name,
            run=asked.answerer,
            notes=asked.contradictions,
            splits=asked.splits,
            weights=asked.weights,
        ),
        "disclaimer": DISCLAIMER,
        "facts": list(facts.items()),
        "pictures": list(zip(PICTURES, uris, strict=True)),
        "answers": answer_lines(asked),
        "uncertain_below": f"{asked.uncertain_below:g}",
        "command": "scanomaly ask RUN VQARUN IMAGE --out DIR",
    }
    return render(TEMPLATE, context)
