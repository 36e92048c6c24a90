"""Answers with a few classes: how many are right, and which are taken for which.

Text outside a question's vocabulary is a wrong answer of no class; the published evaluation raises
an error instead. Undefined values are NaN.

R repeats, n items, K classes
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanomaly.metrics.thresholds import Floats
from scanomaly.questions import ANSWERS, classify

OTHER = "(other)"
"""What a confusion table calls text outside the vocabulary."""
_NONE = -1


@dataclass(frozen=True, slots=True)
class Confusion:
    """counts[i][j]: how often an answer of class i was given as one of class j.

    answers: what classes are called, the last one OTHER.
    """

    question: str
    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def class_indices(question: str, texts: Sequence[str]) -> NDArray[np.int64]:
    """(n,) class of each answer, -1 outside the vocabulary. Raises ValueError if it is open."""
    if question not in ANSWERS:
        known = ", ".join(ANSWERS)
        raise ValueError(f"expected a closed question ({known}), got '{question}'.")
    found = (classify(question, text) for text in texts)
    return np.array([_NONE if index is None else index for index in found], dtype=np.int64)


def confusion(question: str, predictions: Sequence[str], truths: Sequence[str]) -> Confusion:
    """The confusion table of one closed question's answers."""
    answers = (*ANSWERS[question], OTHER)
    counts = np.zeros((len(answers), len(answers)), dtype=np.int64)
    # -1 indexes the last row and column: OTHER
    np.add.at(counts, (class_indices(question, truths), class_indices(question, predictions)), 1)
    return Confusion(question, answers, tuple(tuple(row) for row in counts.tolist()))


def is_exact(predictions: Sequence[str], truths: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) whether the texts are equal, white space at the ends and case aside (published ACC)."""
    pairs = zip(predictions, truths, strict=True)
    return np.array([a.strip().lower() == b.strip().lower() for a, b in pairs], dtype=bool)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Their ratio, NaN where the denominator is 0."""
    found = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=found, where=denominator > 0)
    return found


def mean_of_known(values: Floats) -> Floats:
    """(R, m) -> (R,): mean of what is not NaN, NaN where all of it is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(float))


class ClassCounts:
    """What every metric of one closed question follows from, for weighted items.

    members: bool (n,), the items that are about this question; others have no class.
    """

    def __init__(
        self,
        question: str,
        predictions: Sequence[str],
        truths: Sequence[str],
        members: NDArray[np.bool_] | None = None,
    ) -> None:
        self.question = question
        given, true = class_indices(question, predictions), class_indices(question, truths)
        about = np.ones(len(true), dtype=bool) if members is None else members
        classes = np.arange(len(ANSWERS[question]))
        self._about = about.astype(float)
        self.right = (given == true) & (true != _NONE) & about
        """(n,) whether an item is of this question and its class is right."""
        self._given = (given[:, None] == classes) & about[:, None]  # (n, K)
        self._true = (true[:, None] == classes) & about[:, None]

    def _totals(self, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Right, given and true of each class, (R, K) each, and all items, (R, 1)."""
        return (
            weights @ (self._given & self._true).astype(float),
            weights @ self._given.astype(float),
            weights @ self._true.astype(float),
            (weights @ self._about)[:, None],
        )

    def precision(self, weights: Floats) -> Floats:
        """(R, K); NaN for a class that is never given."""
        right, given, _, _ = self._totals(weights)
        return ratio(right, given)

    def recall(self, weights: Floats) -> Floats:
        """(R, K); NaN for a class that does not occur."""
        right, _, true, _ = self._totals(weights)
        return ratio(right, true)

    def f1(self, weights: Floats) -> Floats:
        """(R, K); NaN for a class that neither occurs nor is given."""
        right, given, true, _ = self._totals(weights)
        return ratio(2 * right, given + true)

    def class_accuracy(self, weights: Floats) -> Floats:
        """(R, K): items right about whether they are of the class."""
        right, given, true, items = self._totals(weights)
        return ratio(items - given - true + 2 * right, items)

    def accuracy(self, weights: Floats) -> Floats:
        """(R,): items of the right class, which is also micro F1."""
        right, _, _, items = self._totals(weights)
        return ratio(right.sum(axis=1), items[:, 0])

    def macro_f1(self, weights: Floats) -> Floats:
        """(R,): mean F1 of the classes that occur; one that does not takes no part."""
        _, _, true, _ = self._totals(weights)
        return mean_of_known(np.where(true > 0, self.f1(weights), np.nan))

    def published_f1(self, weights: Floats) -> Floats:
        """(R,): F1 of "yes" for C1, else micro F1 (spec section 10)."""
        return _PUBLISHED_F1.get(self.question, ClassCounts.accuracy)(self, weights)

    def _f1_of_yes(self, weights: Floats) -> Floats:
        """0, as scikit-learn gives, where "yes" neither occurs nor is given."""
        items = self._totals(weights)[3][:, 0]
        yes = self.f1(weights)[:, 1]
        return np.where(items > 0, np.nan_to_num(yes), np.nan)


_PUBLISHED_F1: Mapping[str, Callable[[ClassCounts, Floats], Floats]] = {
    "C1": ClassCounts._f1_of_yes,
}
