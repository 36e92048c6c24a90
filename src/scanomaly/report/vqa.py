"""VqaEvaluation -> metrics.json, answers.csv and report.html."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scanomaly.files import write_text
from scanomaly.questions import UNCERTAIN_BELOW
from scanomaly.report.page import duration, render, require_extra
from scanomaly.report.pictures import encoded, picture_of
from scanomaly.report.tables import DISCLAIMER
from scanomaly.report.vqa_tables import (
    EMPTY,
    VqaLine,
    answers_csv,
    decoding_words,
    open_set_lines,
    open_set_signatures,
    probability,
    verdict_words,
    vqa_lines,
    vqa_metrics_json,
)

if TYPE_CHECKING:
    from scanomaly.metrics.closed_answers import Confusion
    from scanomaly.vqa.results import AnsweredItem, QuestionResult, VqaEvaluation, VqaPanel

TEMPLATE = "vqa.html.j2"
PICTURES = ("Image", "Anomaly map", "Reconstruction")
KIND_WORDS: Mapping[str, str] = {
    "right": "All closed answers right",
    "wrong": "Some closed answers wrong",
}
"""Kind of panel -> heading."""


@dataclass(frozen=True, slots=True)
class ConfusionView:
    """The classes that occur: name, and how often each was given in its place."""

    question: str
    given: Sequence[str]
    rows: Sequence[tuple[str, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class QuestionView:
    """One question with its numbers."""

    name: str
    text: str
    items: int
    lines: Sequence[VqaLine]
    majority: str


@dataclass(frozen=True, slots=True)
class AnswerView:
    """One question about a panel's triple. mark: right, wrong, or empty for an open question.

    contradicts: what the detector says. uncertain: as `scanomaly ask` marks it by default.
    """

    question: str
    truth: str
    answer: str
    probability: str
    mark: str
    uncertain: bool
    contradicts: bool


@dataclass(frozen=True, slots=True)
class PanelView:
    """A triple, its pictures as data URIs, and what was asked of it.

    verdict: the detector's, empty where it is unknown.
    """

    name: str
    remark: str
    verdict: str
    pictures: Sequence[tuple[str, str]]
    answers: Sequence[AnswerView]


def write_vqa_report(evaluation: VqaEvaluation, folder: Path) -> Path:
    """Write metrics.json, answers.csv and report.html; returns the last one's path.

    Raises DiskError, and MissingExtraError after the first two, which need no extra, are safe.
    """
    write_text(folder / "metrics.json", vqa_metrics_json(evaluation))
    write_text(folder / "answers.csv", answers_csv(evaluation.rows))
    path = folder / "report.html"
    require_extra(path, "metrics.json and answers.csv")
    write_text(path, vqa_html(evaluation))
    return path


def vqa_html(evaluation: VqaEvaluation) -> str:
    """The text of report.html. Needs jinja2."""
    return render(TEMPLATE, _context(evaluation))


def _context(evaluation: VqaEvaluation) -> dict[str, object]:
    """Everything that the template names."""
    return {
        "evaluation": evaluation,
        "disclaimer": DISCLAIMER,
        "facts": _facts(evaluation),
        "levels": _levels(evaluation),
        "questions": [_question_view(q, evaluation.signatures) for q in evaluation.questions],
        "confusions": [
            _confusion_view(q.confusion) for q in evaluation.questions if q.confusion is not None
        ],
        "open_set": [] if evaluation.open_set is None else open_set_lines(evaluation.open_set),
        "open_set_signatures": open_set_signatures(evaluation.signatures),
        "groups": _groups(evaluation.panels),
        "uncertain_below": f"{UNCERTAIN_BELOW:g}",
        "seconds": duration(evaluation.seconds_per_answer),
        "commands": [
            "scanomaly vqa fit --config run.yaml --data MIVQA --out RUN",
            "scanomaly vqa evaluate RUN --data MIVQA" + _options(evaluation),
        ],
        "singles": "answers in answers.csv",
    }


def _options(evaluation: VqaEvaluation) -> str:
    judges = [f"--nli {','.join(evaluation.nli)}"] if evaluation.nli else []
    changed = [f"--set {shlex.quote(assignment)}" for assignment in evaluation.decoding]
    return "".join(f" {option}" for option in (*judges, *changed))


def _facts(evaluation: VqaEvaluation) -> list[tuple[str, str]]:
    run = evaluation.run
    model = "multi-image baseline" if run.config.former is None else "KQ-Former"
    return [
        ("Data set", evaluation.dataset),
        ("Preset", f"{run.preset} ({model}, {run.config.fusion})"),
        ("Source", run.source),
        ("Images", ", ".join(slot.replace("_", " ") for slot in run.config.slots)),
        ("Decoding", decoding_words(run.config.decoding)),
        ("Questions asked", str(len(evaluation.rows))),
        ("Seed", str(run.fit.seed)),
    ]


def _levels(evaluation: VqaEvaluation) -> list[tuple[str, list[VqaLine]]]:
    """Groups of metrics with their headings."""
    signatures = evaluation.signatures
    closed = vqa_lines(evaluation.closed, evaluation.closed_baseline, signatures)
    closed += vqa_lines({"gain": evaluation.gain}, {}, signatures)
    free = vqa_lines(evaluation.open, evaluation.open_baseline, signatures)
    judged = [
        (f"Open questions, {signatures.get(name, name)}", vqa_lines(found, {}, {}))
        for name, found in evaluation.nli.items()
    ]
    return [("Closed questions", closed), ("Open questions", free), *judged]


def _question_view(result: QuestionResult, signatures: Mapping[str, str]) -> QuestionView:
    lines = vqa_lines(result.metrics, result.baseline, signatures)
    if result.gain is not None:
        lines += vqa_lines({"gain": result.gain}, {}, signatures)
    name, text = result.question.name, result.question.text
    majority = "none" if result.majority is None else result.majority
    return QuestionView(name, text, result.items, lines, majority)


def _confusion_view(confusion: Confusion) -> ConfusionView:
    counts, names = confusion.counts, confusion.answers
    given = [j for j in range(len(names)) if any(row[j] for row in counts)]
    true = [i for i, row in enumerate(counts) if any(row)]
    return ConfusionView(
        confusion.question,
        [names[j] for j in given],
        [(names[i], [counts[i][j] for j in given]) for i in true],
    )


def _groups(panels: Sequence[VqaPanel]) -> list[tuple[str, list[PanelView]]]:
    """Panels by kind, in order of appearance."""
    uris = iter(encoded([picture_of(one) for panel in panels for one in panel.pictures]))
    views = [
        (panel.kind, _panel_view(panel.rows, [next(uris) for _ in panel.pictures]))
        for panel in panels
    ]
    return [
        (KIND_WORDS.get(kind, kind), [view for own, view in views if own == kind])
        for kind in dict.fromkeys(panel.kind for panel in panels)
    ]


def _panel_view(rows: Sequence[AnsweredItem], uris: Sequence[str]) -> PanelView:
    item = rows[0].item
    return PanelView(
        name=item.category.replace("_", " ") or item.image.stem,
        remark=item.image.stem,
        verdict=_verdict(rows[0]),
        pictures=list(zip(PICTURES, uris, strict=True)),
        answers=[_answer_view(row) for row in rows],
    )


def _verdict(row: AnsweredItem) -> str:
    item = row.item
    if item.score is None:
        return ""
    return verdict_words(item.score, None, item.p_value, item.flagged)


def _answer_view(row: AnsweredItem) -> AnswerView:
    mark = {True: "right", False: "wrong", None: ""}[row.correct]
    return AnswerView(
        question=row.item.question.strip(),
        truth=row.truth or EMPTY,
        answer=row.answer or EMPTY,
        probability=probability(row.log_probability),
        mark=mark,
        uncertain=row.uncertain,
        contradicts=bool(row.contradicts),
    )
