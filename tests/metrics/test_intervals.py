"""The bootstrap of image metrics against a plain resampling loop on the same draws."""

from math import erf

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from scanomaly.metrics import detection, image_metrics, intervals
from scanomaly.metrics.intervals import bootstrap_weights, group_indices


def patients(seed, count=15, ties=False):
    """Scores, labels and patient ids of unequal numbers of images per patient."""
    rng = np.random.default_rng(seed)
    ids = np.repeat([f"p{i}" for i in range(count)], rng.integers(1, 6, count))
    labels = rng.random(len(ids)) < 0.4
    scores = rng.standard_normal(len(ids)) + labels
    return (np.round(scores) if ties else scores), labels, ids.tolist()


def plain_draws(scores, labels, ids, repeats, seed):
    """Metrics of explicitly repeated images, one dict a repeat with both classes."""
    members = [np.flatnonzero(np.array(ids) == name) for name in dict.fromkeys(ids)]
    draws = []
    for weights in bootstrap_weights(len(members), repeats, seed):
        chosen = np.concatenate([np.tile(m, w) for m, w in zip(members, weights, strict=True)])
        s, y = scores[chosen], labels[chosen]
        if len(np.unique(y)) == 2:
            draws.append((roc_auc_score(y, s), average_precision_score(y, s),
                          detection.sensitivity(s, y)))  # fmt: skip
    return np.array(draws)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("cells", [1 << 22, 100])
def test_intervals_equal_a_plain_resampling_loop(monkeypatch, ties, cells):
    monkeypatch.setattr(intervals, "CELLS_AT_ONCE", cells)
    scores, labels, ids = patients(3, ties=ties)
    found = image_metrics(scores, labels, ids, repeats=200, seed=5)
    draws = plain_draws(scores, labels, ids, 200, 5)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    names = ["auroc", "ap", "sensitivity_at_95_specificity"]
    assert list(found) == names
    np.testing.assert_allclose([found[name].low for name in names], low, atol=1e-12)
    np.testing.assert_allclose([found[name].high for name in names], high, atol=1e-12)
    assert found["auroc"].value == detection.auroc(scores, labels)
    assert found["ap"].value == detection.ap(scores, labels)


def test_same_seed_same_interval_and_another_seed_another():
    data = patients(0)
    assert image_metrics(*data, repeats=50, seed=1) == image_metrics(*data, repeats=50, seed=1)
    assert image_metrics(*data, repeats=50, seed=1) != image_metrics(*data, repeats=50, seed=2)


def test_copies_of_a_patients_images_do_not_narrow_the_interval():
    scores, labels, _ = patients(1)
    single = image_metrics(scores, labels, repeats=100, seed=0)
    ids = list(range(len(scores)))
    tripled = image_metrics(np.tile(scores, 3), np.tile(labels, 3), ids * 3, repeats=100, seed=0)
    for name, estimate in single.items():
        assert tripled[name].low == pytest.approx(estimate.low)
        assert tripled[name].high == pytest.approx(estimate.high)
    naive = image_metrics(np.tile(scores, 3), np.tile(labels, 3), repeats=100, seed=0)["auroc"]
    assert naive.high - naive.low < 0.75 * (single["auroc"].high - single["auroc"].low)


def test_repeats_without_one_class_are_dropped_and_counted():
    # the only abnormal patient is missing from about 1/e of the repeats
    scores, labels = np.arange(10.0), np.arange(10) == 8
    estimate = image_metrics(scores, labels, repeats=500, seed=0)["auroc"]
    assert estimate.repeats == 500
    expected = sum(row[8] == 0 or row.sum() == row[8] for row in bootstrap_weights(10, 500, 0))
    assert estimate.dropped == expected
    assert 130 < estimate.dropped < 240


def test_intervals_hold_the_true_auroc_about_as_often_as_they_say():
    truth = 0.5 * (1 + erf(1.0 / 2))  # normal scores, one standard deviation apart
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(150):
        labels = np.arange(120) % 2 == 1
        found = image_metrics(rng.standard_normal(120) + labels, labels, repeats=200, seed=seed)
        held += found["auroc"].low <= truth <= found["auroc"].high
    assert 0.88 <= held / 150 <= 0.99


@pytest.mark.parametrize(
    ("ids", "repeats", "why"),
    [
        (["a"] * 6, 100, "one patient or image group only"),
        (list("abcdef"), 0, "no bootstrap repeats asked for"),
    ],
)
def test_values_stay_where_intervals_are_impossible(ids, repeats, why):
    scores, labels = np.arange(6.0), np.arange(6) > 2
    for estimate in image_metrics(scores, labels, ids, repeats=repeats).values():
        assert estimate.value == 1.0
        assert estimate.low is None
        assert estimate.high is None
        assert why in (estimate.why or "")


def test_no_usable_repeat_is_said():
    # two patients, one a class: one repeat that draws the same patient twice
    seed = next(s for s in range(100) if bootstrap_weights(2, 1, s).max() == 2)
    estimate = image_metrics([0.0, 1.0], [0, 1], repeats=1, seed=seed)["ap"]
    assert (estimate.value, estimate.low) == (1.0, None)
    assert estimate.why == "none of 1 bootstrap repeats drew both classes"


def test_weights_are_draws_with_replacement():
    weights = bootstrap_weights(30, 400, 0)
    assert weights.shape == (400, 30)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.var() == pytest.approx(1 - 1 / 30, abs=0.05)


def test_groups_are_numbered_and_counted():
    assert group_indices(["b", "a", "b"], 3).tolist() == [0, 1, 0]
    assert group_indices(None, 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="2 groups for 3 images"):
        group_indices(["a", "b"], 3)
