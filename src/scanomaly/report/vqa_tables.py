"""The numbers of an answerer's report: for machines in full, for people with few digits."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scanomaly.metrics import Estimate
from scanomaly.questions import FREE
from scanomaly.report.tables import MetricLine, as_dicts, metric_line, percent

if TYPE_CHECKING:
    from scanomaly.vqa.results import (
        AnsweredItem,
        Metrics,
        OpenSet,
        OpenSetPart,
        QuestionResult,
        VqaEvaluation,
    )

VQA_FORMAT = 1
COLUMNS = (
    *("id", "split", "patient", "category", "question_name", "question", "truth", "answer"),
    *("correct", "log_probability", "score", "p_value", "flagged", "contradicts"),
)

WORDS: Mapping[str, str] = {
    "accuracy": "Accuracy, same text",
    "class_accuracy": "Accuracy, same class",
    "f1": "F1 as published",
    "f1_macro": "F1, mean of classes",
    **{f"bleu_{order}": f"BLEU-{order}" for order in (1, 2, 3, 4)},
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr (0 to 10)",
    "first_word": "First word agrees (such as Yes)",
    "gain": "Accuracy above the majority answer (paired)",
    "entailment": "Answer entails reference",
    "neutral": "Neither",
    "contradiction": "Answer contradicts reference",
    "tie": "Undecided",
    "entailment_reversed": "Reference entails answer",
    "neutral_reversed": "Neither, reversed",
    "contradiction_reversed": "Reference contradicts answer",
    "tie_reversed": "Undecided, reversed",
}
"""Metric -> what a report calls it."""
TABLE_WORDS: Mapping[str, str] = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "accuracy": "Accuracy",
}
"""The same in the open-set table, whose metrics are those of one class."""
CLASS_WORDS: Mapping[str, str] = {"No.": "unhealthy (No.)", "Yes.": "healthy (Yes.)"}
"""Answer to the normal question -> the class that it names, in the open-set table."""
PART_WORDS: Mapping[str, str] = {"known": "trained kinds", "unknown": "kinds left out"}
"""Part of the open set -> what a report calls it."""
EMPTY = "(empty)"
"""What people read in the place of a text without any sign."""


@dataclass(frozen=True, slots=True)
class VqaLine:
    """A metric beside that of the majority answers; signature: how exactly it is computed."""

    metric: MetricLine
    baseline: str
    signature: str


def vqa_lines(
    metrics: Mapping[str, Estimate],
    baseline: Mapping[str, Estimate],
    signatures: Mapping[str, str],
) -> list[VqaLine]:
    """The metrics in their order, named in words; in percent, but CIDEr as it is."""
    return [
        VqaLine(
            line(name, one),
            _shown(name)(baseline[name].value) if name in baseline else "",
            signatures.get(name, ""),
        )
        for name, one in metrics.items()
    ]


def line(name: str, estimate: Estimate) -> MetricLine:
    return metric_line(WORDS.get(name, name), estimate, _shown(name))


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _shown(name: str) -> Any:
    return _plain if name == "cider" else percent


def probability(log_probability: float) -> str:
    """Such as `93 %`; small ones keep a digit."""
    share = 100 * math.exp(min(0.0, log_probability))
    return f"{share:.0f} %" if share >= 1 else f"{share:.1g} %"


def decoding_words(decoding: Mapping[str, Any]) -> str:
    """How answers were found. decoding: `VqaConfig.decoding`."""
    if decoding["reference_decoding"]:
        return "as the released code: greedily, without the question's first word"
    if decoding["greedy"] or decoding["beams"] == 1:
        return "greedy"
    return f"beam search, {decoding['beams']} beams"


def verdict_words(
    score: float, threshold: float | None, p_value: float | None, flagged: bool | None
) -> str:
    """What a detector says of an image, as far as it is known."""
    parts = [f"score {score:.4g}"]
    if threshold is not None:
        parts.append(f"threshold {threshold:.4g}")
    if p_value is not None:
        parts.append(f"p = {p_value:.3g}")
    if flagged is not None:
        parts.append("flagged as abnormal" if flagged else "not flagged")
    return ", ".join(parts)


def vqa_metrics_json(evaluation: VqaEvaluation) -> str:
    """The text of metrics.json: every number of the evaluation, without the single answers."""
    content = {
        "format": VQA_FORMAT,
        "kind": "vqa",
        "preset": evaluation.run.preset,
        "dataset": evaluation.dataset,
        "decoding": evaluation.run.config.decoding,
        "number_of_questions": _numbers(evaluation.rows),
        "closed": as_dicts(evaluation.closed),
        "open": as_dicts(evaluation.open),
        "majority": {
            "closed": as_dicts(evaluation.closed_baseline),
            "open": as_dicts(evaluation.open_baseline),
        },
        "closed_gain_over_majority": evaluation.gain.as_dict(),
        "nli": {name: as_dicts(found) for name, found in evaluation.nli.items()},
        "questions": {q.question.key: _question(q) for q in evaluation.questions},
        "open_set": _open_set(evaluation.open_set),
        "signatures": dict(evaluation.signatures),
        "splits": dict(evaluation.splits),
        "resampled": evaluation.resampled,
        "seconds_per_answer": evaluation.seconds_per_answer,
        "weights": list(evaluation.weights),
        "notes": list(evaluation.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def answers_csv(rows: Iterable[AnsweredItem]) -> str:
    """The text of answers.csv: every field quoted, so that none can end a line or a column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for row in rows:
        item = row.item
        writer.writerow(
            [
                *(item.id, item.split, item.patient or "", item.category),
                *(row.question.name, item.question, row.truth, row.answer),
                *(_bit(row.correct), f"{row.log_probability:.6g}"),
                *(_number(item.score), _number(item.p_value)),
                *(_bit(item.flagged), _bit(row.contradicts)),
            ]
        )
    return text.getvalue()


def _bit(value: bool | None) -> str:
    return "" if value is None else str(int(value))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _numbers(rows: Sequence[AnsweredItem]) -> dict[str, int]:
    closed = sum(row.question.closed for row in rows)
    free = sum(row.question.name == FREE for row in rows)
    return {
        **{"total": len(rows), "closed": closed, "open": len(rows) - closed - free, "free": free}
    }


def _question(result: QuestionResult) -> dict[str, Any]:
    content: dict[str, Any] = {
        "question": result.question.text,
        "items": result.items,
        "metrics": as_dicts(result.metrics),
        "majority_answer": result.majority,
        "majority": as_dicts(result.baseline),
    }
    if result.gain is not None:
        content["gain_over_majority"] = result.gain.as_dict()
    if result.confusion is not None:
        content["confusion"] = {
            "answers": list(result.confusion.answers),
            "counts": [list(row) for row in result.confusion.counts],
        }
    return content


def open_set_parts(open_set: OpenSet) -> dict[str, OpenSetPart]:
    """By their names in metrics.json and on the terminal."""
    return {"known": open_set.known, "unknown": open_set.unknown}


def _open_set(open_set: OpenSet | None) -> dict[str, Any] | None:
    if open_set is None:
        return None
    return {name: _part(part) for name, part in open_set_parts(open_set).items()}


def _part(part: OpenSetPart) -> dict[str, Any]:
    return {
        "unhealthy": part.unhealthy,
        "healthy": part.healthy,
        "classes": {name: as_dicts(metrics) for name, metrics in part.classes.items()},
        "as_published": {
            name: {"ACC": metrics["precision"].value, "F1": metrics["f1"].value}
            for name, metrics in part.classes.items()
        },
        "confusion": [list(row) for row in part.confusion.counts],
    }


@dataclass(frozen=True, slots=True)
class OpenSetLine:
    """One class of one set of cases; published: what the paper's columns would print."""

    cases: str
    name: str
    metrics: Sequence[MetricLine]
    published: Sequence[str]


def open_set_lines(open_set: OpenSet) -> list[OpenSetLine]:
    """Known and unknown kinds, class by class and their mean."""
    return [
        OpenSetLine(
            f"{PART_WORDS[kinds]}: {part.unhealthy} unhealthy, {part.healthy} healthy",
            CLASS_WORDS.get(name, name),
            [metric_line(TABLE_WORDS[metric], one) for metric, one in metrics.items()],
            _published(metrics),
        )
        for kinds, part in open_set_parts(open_set).items()
        for name, metrics in part.classes.items()
    ]


def open_set_signatures(signatures: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each of its metrics in words, with how it is computed."""
    return [(words, signatures[f"open_set_{name}"]) for name, words in TABLE_WORDS.items()]


def _published(metrics: Metrics) -> list[str]:
    return [percent(metrics["precision"].value), percent(metrics["f1"].value)]
