"""BLEU, ROUGE-L and CIDEr against the published scorers' values and against plain definitions."""

import json
from collections import Counter
from math import exp, log, prod, sqrt

import numpy as np
import pytest

from scanomaly.metrics import text_overlap
from scanomaly.metrics.text_overlap import bleu, bleu_counts, cider_each, rouge_l_each


@pytest.fixture(scope="module")
def published(golden):
    return json.loads(golden("vqa_text_metrics.json").read_text())


def test_the_published_values(published):
    texts = published["hypotheses"], published["references"]
    np.testing.assert_allclose(bleu(*texts), published["bleu"], rtol=1e-12)
    np.testing.assert_allclose(rouge_l_each(*texts), published["rouge_l_each"], rtol=1e-12)
    np.testing.assert_allclose(cider_each(*texts), published["cider_each"], rtol=1e-12, atol=1e-12)
    assert rouge_l_each(*texts).mean() == pytest.approx(published["rouge_l"], rel=1e-12)
    assert cider_each(*texts).mean() == pytest.approx(published["cider"], rel=1e-12)


WORDS = ["the", "a", "small", "lesion", "left", "right", "frontal", "lobe", "is"]


def sentences(seed, count, words=9):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[:words], rng.integers(0, 9))) for _ in range(count)]


def plain_ngrams(text, n):
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words)) if i + n <= len(words)]


def plain_bleu(predictions, references, n):
    matched, made = [], []
    for order in range(1, n + 1):
        pairs = [
            (Counter(plain_ngrams(p, order)), Counter(plain_ngrams(r, order)))
            for p, r in zip(predictions, references, strict=True)
        ]
        matched.append(sum(min(p[g], r[g]) for p, r in pairs for g in p))
        made.append(sum(p.total() for p, _ in pairs))
    length = sum(len(p.split()) for p in predictions)
    expected = sum(len(r.split()) for r in references)
    brevity = 1 if length >= expected else exp(1 - expected / length)
    return brevity * prod(m / g for m, g in zip(matched, made, strict=True)) ** (1 / n)


def test_bleu_is_its_definition():
    predictions, references = sentences(0, 40, words=3), sentences(1, 40, words=3)
    expected = [plain_bleu(predictions, references, n) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(bleu(predictions, references), expected, rtol=1e-6)
    assert 0 < expected[3] < expected[0] < 1


def test_a_short_answer_is_penalised_and_a_long_one_is_not():
    assert bleu(["a b"], ["a b c d"])[0] == pytest.approx(exp(1 - 2))
    assert bleu(["a b c d"], ["a b"])[0] == pytest.approx(0.5)


def plain_rouge(prediction, reference):
    """By enumerating the words of the prediction that may be left out."""
    words, expected = prediction.split(" "), reference.split(" ")

    def is_inside(part):
        rest = iter(expected)
        return all(word in rest for word in part)

    common = max(
        bits.bit_count()
        for bits in range(1 << len(words))
        if is_inside([w for i, w in enumerate(words) if bits >> i & 1])
    )
    precision, recall = common / len(words), common / len(expected)
    return 2.44 * precision * recall / (recall + 1.44 * precision) if common else 0.0


def test_rouge_l_is_its_definition():
    predictions, references = sentences(2, 20), sentences(3, 20)
    expected = [plain_rouge(*pair) for pair in zip(predictions, references, strict=True)]
    np.testing.assert_allclose(rouge_l_each(predictions, references), expected)


def plain_cider(prediction, reference, references):
    total = 0.0
    for n in (1, 2, 3, 4):

        def weight(text, gram, n=n):
            frequency = sum(gram in plain_ngrams(r, n) for r in references)
            return plain_ngrams(text, n).count(gram) * log(len(references) / max(1, frequency))

        grams = {*plain_ngrams(prediction, n), *plain_ngrams(reference, n)}
        ours = {gram: weight(prediction, gram) for gram in grams}
        theirs = {gram: weight(reference, gram) for gram in grams}
        norm = sqrt(sum(w * w for w in ours.values()) * sum(w * w for w in theirs.values()))
        dot = sum(min(ours[gram], theirs[gram]) * theirs[gram] for gram in grams)
        total += dot / norm if norm else 0.0
    difference = len(plain_ngrams(prediction, 2)) - len(plain_ngrams(reference, 2))
    return 10 * exp(-(difference**2) / 72) * total / 4


def test_cider_is_its_definition():
    predictions, references = sentences(4, 15), sentences(5, 15)
    expected = [plain_cider(p, r, references) for p, r in zip(predictions, references, strict=True)]
    np.testing.assert_allclose(cider_each(predictions, references), expected, atol=1e-12)
    assert max(expected) > 0.5


def test_case_and_punctuation_count_and_blanks_around_do_not():
    assert bleu(["  Yes. \n"], ["Yes."])[0] == pytest.approx(1)
    assert bleu(["yes."], ["Yes."])[0] < 1e-6
    assert bleu(["Yes"], ["Yes."])[0] < 1e-6
    assert rouge_l_each([" Yes."], ["Yes. "]).tolist() == [1.0]


@pytest.mark.parametrize("prediction", ["", "   ", "\t"])
def test_an_empty_answer_scores_nothing_and_breaks_nothing(prediction):
    with np.errstate(all="raise", under="ignore"):
        assert max(bleu([prediction], ["Yes, on the left."])) < 1e-5
    assert rouge_l_each([prediction], ["Yes."]).tolist() == [0.0]
    assert cider_each([prediction, "b"], ["Yes.", "b"]).tolist() == [0.0, 2.5]


def test_nothing_at_all():
    assert bleu_counts([], []).shape == (0, 10)
    assert rouge_l_each([], []).shape == cider_each([], []).shape == (0,)


def test_the_longest_common_subsequence_of_long_texts_is_quick_enough():
    one, other = "a b c d e " * 40, "b a d c e " * 40
    assert text_overlap._longest_common(one.split(), other.split()) == 120
