"""Image metrics against scikit-learn and against plain loops."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from scanomaly.metrics import (
    UndefinedMetric,
    best_dice,
    best_dice_threshold,
    image_counts,
    precision_recall_points,
    roc_points,
)
from scanomaly.metrics.detection import ap, auroc, sensitivity

CASES = {
    "continuous": lambda rng: (rng.standard_normal(200), rng.random(200) < 0.3),
    "heavy ties": lambda rng: (rng.integers(0, 5, 200), rng.random(200) < 0.3),
    "all tied": lambda rng: (np.zeros(50), np.arange(50) < 7),
    "float32": lambda rng: (rng.random(300, dtype=np.float32), rng.random(300) < 0.5),
    "one positive": lambda rng: (rng.standard_normal(40), np.arange(40) == 3),
    "one negative": lambda rng: (rng.standard_normal(40), np.arange(40) != 3),
    "perfect": lambda rng: (np.arange(30.0), np.arange(30) >= 20),
    "inverted": lambda rng: (-np.arange(30.0), np.arange(30) >= 20),
    "infinite": lambda rng: (np.array([-np.inf, 0, 0, np.inf, np.inf]), [0, 0, 1, 0, 1]),
    "signed zero": lambda rng: (np.array([-0.0, 0.0, 0.0, -0.0, 1.0]), [0, 1, 0, 1, 0]),
}


@pytest.fixture(params=CASES)
def scored(request):
    scores, labels = CASES[request.param](np.random.default_rng(7))
    return scores, np.asarray(labels)


def plain_auroc(scores, labels):
    wins = 0.0
    for positive in scores[labels == 1]:
        for negative in scores[labels == 0]:
            wins += 1.0 if positive > negative else 0.5 if positive == negative else 0.0
    return wins / (labels == 1).sum() / (labels == 0).sum()


def plain_sensitivity(scores, labels, specificity):
    best = 0.0  # nothing flagged
    for threshold in scores:
        flagged = scores >= threshold
        true_negatives, negatives = (~flagged[labels == 0]).sum(), (labels == 0).sum()
        if true_negatives >= specificity * negatives - 1e-9:
            best = max(best, flagged[labels == 1].mean())
    return best


def test_auroc_equals_the_plain_loop_and_scikit_learn(scored):
    scores, labels = scored
    assert auroc(scores, labels) == pytest.approx(plain_auroc(scores, labels), abs=1e-12)
    if np.isfinite(scores).all():
        expected = sklearn_metrics.roc_auc_score(labels, scores)
        assert auroc(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_ap_equals_scikit_learn(scored):
    scores, labels = scored
    ranks = np.unique(scores, return_inverse=True)[1]  # scikit-learn refuses infinities
    expected = sklearn_metrics.average_precision_score(labels, ranks)
    assert ap(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_sensitivity_equals_the_plain_loop(scored):
    scores, labels = scored
    for specificity in (0.5, 0.8, 0.9, 0.95, 1.0):
        expected = plain_sensitivity(scores, labels, specificity)
        assert sensitivity(scores, labels, specificity) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("negatives", [10, 20, 40, 100, 1000])
def test_exactly_the_allowed_share_of_false_alarms_is_allowed(negatives):
    # the highest negatives, as many as specificity 0.9 allows, lie above the only positive
    scores = np.r_[np.arange(negatives), negatives * 0.9 - 0.5]
    labels = np.r_[np.zeros(negatives), 1]
    assert sensitivity(scores, labels, 0.9) == 1.0
    assert sensitivity(scores, labels, 0.9 + 1 / negatives / 2) == 0.0


def test_best_dice_and_its_threshold_equal_the_plain_loop(scored):
    scores, labels = scored
    counts = image_counts(scores, labels)
    values = {t: sklearn_metrics.f1_score(labels, scores >= t) for t in scores}
    assert float(best_dice(counts)) == pytest.approx(max(values.values()), abs=1e-12)
    assert values[best_dice_threshold(counts)] == pytest.approx(max(values.values()), abs=1e-12)


def test_roc_curve_passes_through_scikit_learns_points(scored):
    scores, labels = scored
    ranks = np.unique(scores, return_inverse=True)[1]
    curve = roc_points(image_counts(scores, labels))
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert sklearn_metrics.auc(curve.x, curve.y) == pytest.approx(
        plain_auroc(scores, labels), abs=1e-12
    )
    points = set(zip(curve.x.round(9), curve.y.round(9), strict=True))
    x, y, _ = sklearn_metrics.roc_curve(labels, ranks, drop_intermediate=True)
    corners = _corners(x, y)
    assert corners <= points


def _corners(x, y):
    """Points at which the curve turns."""
    dx, dy = np.diff(x), np.diff(y)
    turns = np.r_[True, dx[1:] * dy[:-1] != dx[:-1] * dy[1:], True]
    return set(zip(x[turns].round(9), y[turns].round(9), strict=True))


def test_precision_recall_curve_holds_scikit_learns_points_at_positives(scored):
    scores, labels = scored
    ranks = np.unique(scores, return_inverse=True)[1]
    curve = precision_recall_points(image_counts(scores, labels))
    assert (np.diff(curve.x) >= 0).all()
    assert (curve.x[-1], curve.y[-1]) == (1.0, pytest.approx(labels.mean()))
    precision, recall, thresholds = sklearn_metrics.precision_recall_curve(labels, ranks)
    at_positive = np.isin(thresholds, ranks[labels == 1])
    expected = set(
        zip(recall[:-1][at_positive].round(9), precision[:-1][at_positive].round(9), strict=True)
    )
    assert expected <= set(zip(curve.x.round(9), curve.y.round(9), strict=True))


def test_thinned_curves_keep_ends_and_area():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.5
    scores = rng.standard_normal(20_000) + labels
    curve = roc_points(image_counts(scores, labels), 400)
    assert len(curve.x) <= 402
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert sklearn_metrics.auc(curve.x, curve.y) == pytest.approx(auroc(scores, labels), abs=1e-4)
    assert len(precision_recall_points(image_counts(scores, labels), 400).x) <= 401


@pytest.mark.parametrize("metric", [auroc, ap, sensitivity, image_counts])
@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([0] * 24, "one class only: 24 normal, 0 abnormal images"),
        ([1] * 5, "one class only: 0 normal, 5 abnormal images"),
        ([], "no images"),
    ],
)
def test_one_class_or_nothing_is_undefined_and_says_why(metric, labels, why):
    with pytest.raises(UndefinedMetric, match=why):
        metric(np.zeros(len(labels)), labels)


def test_nan_is_an_error_that_counts_and_places_it():
    with pytest.raises(ValueError, match="1 of 3 scores are NaN, the first at index 1") as caught:
        auroc([0.1, np.nan, 0.3], [0, 1, 1])
    assert not isinstance(caught.value, UndefinedMetric)


def test_wrong_labels_and_lengths_are_errors():
    with pytest.raises(ValueError, match=r"labels must be 0 or 1, got \[0, 2\]"):
        auroc([0.1, 0.2], [0, 2])
    with pytest.raises(ValueError, match=r"scores \(2,\) and labels \(3,\)"):
        auroc([0.1, 0.2], [0, 1, 1])


def test_importing_the_metrics_loads_no_torch():
    code = "import sys, scanomaly.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
