"""The paired bootstrap against a plain loop, and what it says of methods that are alike."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from scanomaly.metrics import Estimate, UndefinedMetric, area_under_roc, mean_estimates
from scanomaly.metrics.detection import auroc
from scanomaly.metrics.paired import average, difference, sampled_draws, sampled_metric

N = 60
RNG = np.random.default_rng(0)
LABELS = RNG.random(N) < 0.5
GROUPS = [f"patient-{index // 3}" for index in range(N)]
WEAK = LABELS + RNG.normal(size=N) * 2
STRONG = LABELS + RNG.normal(size=N) * 0.4


def of(scores, groups=GROUPS, repeats=300):
    return sampled_metric(area_under_roc, scores, LABELS, groups, repeats)


def test_a_difference_is_that_of_both_metrics_on_the_same_patients():
    found = difference(of(STRONG), of(WEAK))
    assert found.estimate.value == pytest.approx(auroc(STRONG, LABELS) - auroc(WEAK, LABELS))
    # the same by hand: redraw the patients that the weights of one repeat drew
    names = list(dict.fromkeys(GROUPS))
    members = {name: [i for i in range(N) if GROUPS[i] == name] for name in names}
    rng = np.random.default_rng(zlib.crc32("\0".join(names).encode()))
    plain = []
    for _ in range(300):
        drawn = [i for k in rng.integers(len(names), size=len(names)) for i in members[names[k]]]
        plain.append(auroc(STRONG[drawn], LABELS[drawn]) - auroc(WEAK[drawn], LABELS[drawn]))
    np.testing.assert_allclose((of(STRONG) - of(WEAK)).draws, plain, atol=1e-12)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(
        tuple(np.quantile(plain, [0.025, 0.975]))
    )
    below = sum(value <= 0 for value in plain)
    assert found.p == pytest.approx(2 * (1 + below) / 301)
    assert found.is_clear


def test_pairing_narrows_the_interval_of_methods_that_agree():
    almost = STRONG + RNG.normal(size=N) * 0.02
    paired = difference(of(STRONG), of(almost)).estimate
    apart = difference(of(STRONG), of(almost, [f"other-{g}" for g in GROUPS])).estimate
    assert paired.high - paired.low < 0.3 * (apart.high - apart.low)


def test_a_method_is_not_better_than_itself():
    same = difference(of(WEAK), of(WEAK))
    assert same.p == 1.0
    assert (same.estimate.low, same.estimate.high) == (0.0, 0.0)
    assert not same.is_clear


def test_the_sign_follows_the_order():
    one, other = difference(of(WEAK), of(STRONG)), difference(of(STRONG), of(WEAK))
    assert one.estimate.value == -other.estimate.value
    assert one.estimate.low == pytest.approx(-other.estimate.high)
    assert one.p == other.p


def test_seeds_on_the_same_patients_are_averaged_repeat_by_repeat():
    both = average([of(STRONG), of(WEAK)])
    np.testing.assert_allclose(both.draws, (of(STRONG).draws + of(WEAK).draws) / 2)
    assert both.value == pytest.approx((of(STRONG).value + of(WEAK).value) / 2)
    with pytest.raises(ValueError, match="at least one part"):
        average([])


def answered(right: np.ndarray, repeats: int = 200) -> Estimate:
    return mean_estimates({"": right}, GROUPS, repeats=repeats)[""]


def test_kept_draws_are_paired():
    first, second = (RNG.random(N) < 0.7).astype(float), (RNG.random(N) < 0.6).astype(float)
    sides = [sampled_draws(answered(right), GROUPS) for right in (first, second)]
    found = difference(*sides).estimate
    plain = answered(first - second)
    assert (found.value, found.low, found.high) == pytest.approx(
        (plain.value, plain.low, plain.high)
    )


def test_kept_draws_of_other_patients_are_independent():
    estimate = answered((RNG.random(N) < 0.7).astype(float), repeats=1000)
    own, again = (sampled_draws(estimate, GROUPS) for _ in range(2))
    others = sampled_draws(estimate, [f"other {name}" for name in GROUPS])
    np.testing.assert_array_equal(own.draws, again.draws)
    np.testing.assert_array_equal(np.sort(own.draws), np.sort(others.draws))
    assert abs(np.corrcoef(own.draws, others.draws)[0, 1]) < 0.15
    with pytest.raises(UndefinedMetric, match="draws were not kept"):
        sampled_draws(Estimate(0.5), GROUPS)
    with pytest.raises(UndefinedMetric, match="no masks"):
        sampled_draws(Estimate.undefined("no masks"), GROUPS)


def test_one_patient_gives_a_value_without_an_interval():
    sampled = of(STRONG, ["one"] * N)
    found = difference(sampled, sampled)
    assert found.estimate.value == 0
    assert found.estimate.low is None
    assert found.p is None
    assert "too few patients" in found.estimate.why


def test_one_class_is_undefined():
    none = sampled_metric(area_under_roc, [1.0, 2.0], [True, True], ["a", "b"])
    found = difference(none, none)
    assert found.estimate.value is None
    assert found.p is None


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="are NaN"):
        sampled_metric(area_under_roc, [float("nan"), 1.0], [True, False], ["a", "b"])
    with pytest.raises(ValueError, match="needs its group"):
        sampled_metric(area_under_roc, [0.0, 1.0], [True, False], ["a"])
