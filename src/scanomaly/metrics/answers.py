"""Metrics of answers in words, each with its interval and signature; empty and free text count.

n items; all values in 0..1 but CIDEr's, which is in 0..10
"""

import string
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanomaly.metrics.closed_answers import ClassCounts, is_exact, mean_of_known, ratio
from scanomaly.metrics.estimate import Estimate
from scanomaly.metrics.intervals import Statistic, group_indices, weighted_estimates
from scanomaly.metrics.text_overlap import (
    ORDER,
    bleu_counts,
    bleu_of_counts,
    cider_each,
    rouge_l_each,
)
from scanomaly.metrics.thresholds import Floats
from scanomaly.questions import ANSWERS

_WORDS = "case:mixed|tok:split|nrefs:1"
_CLASS = "outside:wrong|unit:class"
SIGNATURES: Mapping[str, str] = {
    "accuracy": "ACC|match:exact|case:lower|strip:yes",
    "class_accuracy": "ACC|match:class|outside:wrong",
    "f1": "F1|C1:binary,yes|C2,C3:micro|avg:questions|outside:wrong",
    "f1_macro": "F1|avg:macro,classes-in-truth,questions|outside:wrong",
    **{f"bleu_{n}": f"BLEU|n:{n}|{_WORDS}|smooth:none|level:corpus" for n in range(1, ORDER + 1)},
    "rouge_l": f"ROUGE-L|beta:1.2|{_WORDS}|level:item",
    "cider": f"CIDEr-D|n:4|sigma:6|scale:10|{_WORDS}|df:references-of-this-test-set",
    "first_word": "ACC|unit:first-word|case:lower|punct:dropped",
    "gain": "ACC|match:class|outside:wrong|minus:majority-of-training|paired",
    "open_set_precision": f"P|{_CLASS}|mean:unweighted",
    "open_set_recall": f"R|{_CLASS}|mean:unweighted",
    "open_set_f1": f"F1|{_CLASS}|mean:unweighted",
    "open_set_accuracy": f"ACC|{_CLASS},against-rest|mean:share-of-right",
}
"""Metric -> how exactly it is computed, to be printed beside its value; `open_set_`: those of
`class_metrics`."""

MEAN = "mean"
"""Beside the classes of a question in `class_metrics`: all of them together."""


def closed_metrics(
    questions: Sequence[str],
    predictions: Sequence[str],
    truths: Sequence[str],
    groups: Sequence[Hashable] | None = None,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """accuracy and class_accuracy of all items; f1 (published) and f1_macro, means of questions.

    questions: (n,) C1, C2 or C3 of each item; those that do not occur take no part. groups: (n,)
    patient of each; None resamples single items. Raises ValueError for an open question and for
    unequal lengths.
    """
    group = _checked_groups(groups, questions, predictions, truths)
    asked = np.array(questions, dtype=object)
    counts = [
        ClassCounts(name, predictions, truths, asked == name)
        for name in dict.fromkeys((*ANSWERS, *questions))
    ]

    def mean_over_questions(metric: Callable[[ClassCounts, Floats], Floats]) -> Statistic:
        return lambda weights: mean_of_known(
            np.stack([metric(one, weights) for one in counts], axis=1)
        )

    statistics: dict[str, Statistic] = {
        "accuracy": _mean(is_exact(predictions, truths)),
        "class_accuracy": _mean(np.any([one.right for one in counts], axis=0)),
        "f1": mean_over_questions(ClassCounts.published_f1),
        "f1_macro": mean_over_questions(ClassCounts.macro_f1),
    }
    return weighted_estimates(statistics, group, repeats=repeats, seed=seed)


def class_metrics(
    question: str,
    predictions: Sequence[str],
    truths: Sequence[str],
    groups: Sequence[Hashable] | None = None,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """precision, recall, f1 and accuracy of each class of a closed question, and of their MEAN.

    A class's accuracy is that of telling it from the rest; MEAN has the share of right answers,
    and unweighted means else (its recall is balanced accuracy). The paper's open-set table prints
    precision as accuracy (spec section 11). Errors: `closed_metrics`.
    """
    group = _checked_groups(groups, predictions, truths)
    counts = ClassCounts(question, predictions, truths)
    of_classes: dict[str, Statistic] = {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "accuracy": counts.class_accuracy,
    }
    of_all: dict[str, Statistic] = {
        name: _mean_of_classes(statistic) for name, statistic in of_classes.items()
    } | {"accuracy": counts.accuracy}
    table = {
        answer: {name: _of_class(each, index) for name, each in of_classes.items()}
        for index, answer in enumerate(ANSWERS[question])
    } | {MEAN: of_all}
    flat = {(row, name): found for row, cells in table.items() for name, found in cells.items()}
    known = weighted_estimates(flat, group, repeats=repeats, seed=seed)
    return {row: {name: known[row, name] for name in cells} for row, cells in table.items()}


def open_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    groups: Sequence[Hashable] | None = None,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """bleu_1 to bleu_4, rouge_l, cider and first_word of answers with one reference each.

    cider weighs n-grams by the references of the whole sample, in resampled ones too. Errors and
    groups: `closed_metrics`.
    """
    group = _checked_groups(groups, predictions, references)
    statistics = _open_statistics(predictions, references)
    known = weighted_estimates(statistics, group, repeats=repeats, seed=seed)
    if len(references) == 1:
        known["cider"] = Estimate.undefined("one answer only: no n-gram is rarer than another")
    return known


def open_differences(
    predictions: Sequence[str],
    others: Sequence[str],
    references: Sequence[str],
    groups: Sequence[Hashable] | None = None,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """By how much `open_metrics` of predictions are above those of others; paired: both on the
    same resamples."""
    group = _checked_groups(groups, predictions, others, references)
    first, second = (_open_statistics(texts, references) for texts in (predictions, others))
    statistics = {name: _minus(first[name], second[name]) for name in first}
    return weighted_estimates(statistics, group, repeats=repeats, seed=seed)


def _open_statistics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Statistic]:
    counts = bleu_counts(predictions, references)

    def bleu(order: int) -> Statistic:
        return lambda weights: np.where(
            weights.sum(axis=1) > 0, bleu_of_counts(weights @ counts)[:, order - 1], np.nan
        )

    return {
        **{f"bleu_{order}": bleu(order) for order in range(1, ORDER + 1)},
        "rouge_l": _mean(rouge_l_each(predictions, references)),
        "cider": _mean(cider_each(predictions, references)),
        "first_word": _mean(_same_first_word(predictions, references)),
    }


def mean_estimates(
    values: Mapping[str, ArrayLike],
    groups: Sequence[Hashable] | None = None,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The mean of each row of values (n,), such as whether an answer has some quality."""
    group = _checked_groups(groups, *(np.asarray(row) for row in values.values()))
    statistics = {name: _mean(np.asarray(row)) for name, row in values.items()}
    return weighted_estimates(statistics, group, repeats=repeats, seed=seed)


def majority_answers(questions: Sequence[str], answers: Sequence[str]) -> dict[str, str]:
    """Question -> its most frequent answer: what a model that sees nothing would say."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in zip(questions, answers, strict=True):
        found[question][answer] += 1
    return {question: counts.most_common(1)[0][0] for question, counts in found.items()}


def _checked_groups(
    groups: Sequence[Hashable] | None, *columns: Sequence[object] | NDArray[Any]
) -> NDArray[np.int64]:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1:
        raise ValueError(f"expected columns of one length, got {lengths}.")
    return group_indices(groups, lengths[0])


def _mean(values: NDArray[Any]) -> Statistic:
    known = values.astype(np.float64)
    return lambda weights: ratio(weights @ known, weights.sum(axis=1))


def _minus(first: Statistic, second: Statistic) -> Statistic:
    return lambda weights: first(weights) - second(weights)


def _mean_of_classes(statistic: Statistic) -> Statistic:
    return lambda weights: mean_of_known(statistic(weights))


def _of_class(statistic: Statistic, index: int) -> Statistic:
    return lambda weights: statistic(weights)[:, index]


def _same_first_word(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) whether they begin alike, such as with "Yes"."""
    pairs = zip(predictions, references, strict=True)
    return np.array([_first_word(a) == _first_word(b) for a, b in pairs], dtype=bool)


def _first_word(text: str) -> str:
    return next(iter(text.split()), "").strip(string.punctuation).lower()
