"""How much of a reference's wording an answer has: BLEU, ROUGE-L and CIDEr, one reference each.

As nlg-eval computes them on raw strings, which is what KQ-Former's evaluation uses (spec section
10): white space separates words, case and punctuation are kept, white space at the ends is not.

R repeats (1 for a point estimate), n items
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from scanomaly.metrics.thresholds import Floats

ORDER = 4
"""Longest n-gram of BLEU and CIDEr, in words."""
ROUGE_BETA = 1.2
CIDER_SIGMA, CIDER_SCALE = 6.0, 10.0
_TINY, _SMALL = 1e-15, 1e-9  # nlg-eval's guards against 0 / 0

Ngrams = Counter[tuple[str, ...]]


def _ngrams(words: Sequence[str], n: int) -> Ngrams:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def bleu_counts(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """(n, 2 ORDER + 2): matched n-grams of each length, n-grams of each, words, reference's words.

    Their sums over items give the corpus's BLEU.
    """
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        words, expected = prediction.split(), reference.split()
        matched = [(_ngrams(words, n) & _ngrams(expected, n)).total() for n in range(1, ORDER + 1)]
        made = [max(0, len(words) - n + 1) for n in range(1, ORDER + 1)]
        rows.append([*matched, *made, len(words), len(expected)])
    return np.array(rows, dtype=np.float64).reshape(-1, 2 * ORDER + 2)


def bleu_of_counts(sums: Floats) -> Floats:
    """BLEU-1 to BLEU-4, (R, ORDER), of summed counts (R, 2 ORDER + 2)."""
    matched, made = sums[:, :ORDER], sums[:, ORDER : 2 * ORDER]
    precisions = (matched + _TINY) / (made + _SMALL)
    roots = np.cumprod(precisions, axis=1) ** (1 / np.arange(1, ORDER + 1))
    ratio = (sums[:, -2:-1] + _TINY) / (sums[:, -1:] + _SMALL)
    brevity: Floats = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return roots * brevity


def bleu(predictions: Sequence[str], references: Sequence[str]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of a corpus, 0..1."""
    sums = bleu_counts(predictions, references).sum(axis=0, keepdims=True)
    return tuple(bleu_of_counts(sums)[0].tolist())


def rouge_l_each(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """(n,) F of the longest common subsequence of words, recall weighted by ROUGE_BETA; 0..1.

    Words are separated by single blanks, so that two empty answers agree.
    """
    return np.array(
        [
            _rouge_l(prediction.strip().split(" "), reference.strip().split(" "))
            for prediction, reference in zip(predictions, references, strict=True)
        ],
        dtype=np.float64,
    )


def _rouge_l(words: Sequence[str], expected: Sequence[str]) -> float:
    common = _longest_common(words, expected)
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(expected)
    weight = ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for at, other in enumerate(second, start=1):
            above = lengths[at]
            lengths[at] = diagonal + 1 if word == other else max(above, lengths[at - 1])
            diagonal = above
    return lengths[-1]


def cider_each(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """(n,) CIDEr-D, 0..10: similarity of n-grams, those of fewer references weighing more.

    A rarity is that among these references, so values depend on the sample. Of one item alone
    every n-gram is common and the value 0.
    """
    frequency: Ngrams = Counter()
    for reference in references:
        frequency.update(_all_ngrams(reference).keys())
    items = math.log(len(references)) if references else 0.0
    rarity = {ngram: items - math.log(count) for ngram, count in frequency.items()}
    return np.array(
        [
            _cider(_Weighted(prediction, rarity, items), _Weighted(reference, rarity, items))
            for prediction, reference in zip(predictions, references, strict=True)
        ],
        dtype=np.float64,
    )


def _all_ngrams(text: str) -> Ngrams:
    """N-grams of every length up to ORDER."""
    words = text.split()
    found: Ngrams = Counter()
    for n in range(1, ORDER + 1):
        found.update(_ngrams(words, n))
    return found


class _Weighted:
    """A text's n-grams by their length, each weighted by its rarity."""

    def __init__(self, text: str, rarity: Mapping[tuple[str, ...], float], unknown: float) -> None:
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDER)]
        for ngram, count in _all_ngrams(text).items():
            self.weights[len(ngram) - 1][ngram] = count * rarity.get(ngram, unknown)
        self.norms = [math.sqrt(sum(w * w for w in one.values())) for one in self.weights]
        self.bigrams = max(0, len(text.split()) - 1)


def _cider(found: _Weighted, expected: _Weighted) -> float:
    # the published length is the number of bigrams
    penalty = math.exp(-((found.bigrams - expected.bigrams) ** 2) / (2 * CIDER_SIGMA**2))
    total = 0.0
    for n in range(ORDER):
        norms = found.norms[n] * expected.norms[n]
        if norms > 0:
            reference = expected.weights[n]
            shared = (
                min(weight, reference.get(ngram, 0.0)) * reference.get(ngram, 0.0)
                for ngram, weight in found.weights[n].items()
            )
            total += sum(shared) / norms
    return CIDER_SCALE * penalty * total / ORDER
