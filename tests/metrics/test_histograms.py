"""Pixel bootstrap: resampled histograms against the exact metrics of really repeated maps."""

import numpy as np
import pytest
from scipy import ndimage

from scanomaly.metrics import histograms, pixel_counts, pixel_metrics
from scanomaly.metrics.families import PIXEL_METRICS
from scanomaly.metrics.histograms import chosen_thresholds, group_histograms
from scanomaly.metrics.intervals import bootstrap_weights, group_indices
from scanomaly.metrics.localisation import checked_pairs, gather_positives


def smooth_set(images, side, seed=0, ties=False):
    """Smooth maps raised under discs; the first maps of each patient carry regions."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    maps, masks = [], []
    for index in range(images):
        mask = np.zeros((side, side), bool)
        for _ in range(index % 3):
            row, column = rng.uniform(0, side, 2)
            mask |= (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(1, side / 6) ** 2
        scores = 4 * ndimage.gaussian_filter(rng.standard_normal((side, side)), 3)
        scores += ndimage.gaussian_filter(mask.astype(float), 1) + 0.1 * rng.random((side, side))
        maps.append((np.round(scores * 4) if ties else scores).astype(np.float32))
        masks.append(mask)
    return maps, masks


def histograms_of(maps, masks, ids, **options):
    planes, truths = checked_pairs(maps, masks)
    pixels = gather_positives(planes, truths)
    group = group_indices(ids, len(planes))
    return group_histograms(planes, pixels, pixel_counts(maps, masks), group, **options)


def repeated(maps, masks, ids, weights):
    """Every patient's maps, as often as the patient was drawn."""
    times = weights[group_indices(ids, len(maps))]
    chosen = np.repeat(np.arange(len(maps)), times)
    return [maps[i] for i in chosen], [masks[i] for i in chosen]


@pytest.mark.parametrize("ties", [False, True])
def test_resampled_counts_equal_really_repeated_maps(monkeypatch, ties):
    monkeypatch.setattr(histograms, "PIXELS_AT_ONCE", 50)
    maps, masks = smooth_set(9, 24, ties=ties)
    maps[3], masks[3] = maps[3][:10], masks[3][:10]
    ids = list("aabbbccdd")
    found = histograms_of(maps, masks, ids, max_thresholds=10**6)
    weights = bootstrap_weights(4, 20, seed=0)
    weights = weights[(weights @ found.positives) > 0]
    resampled = found.resample(weights.astype(float))
    for name, metric in PIXEL_METRICS.items():
        exact = [float(metric(pixel_counts(*repeated(maps, masks, ids, row)))) for row in weights]
        np.testing.assert_allclose(metric(resampled), exact, atol=1e-12, err_msg=name)


def test_few_thresholds_come_within_a_ten_thousandth_of_exact():
    maps, masks = smooth_set(30, 96)
    counts = pixel_counts(maps, masks)
    assert len(counts.thresholds) > 3 * histograms.MAX_THRESHOLDS
    found = histograms_of(maps, masks, list(range(30)))
    assert len(found.thresholds) <= histograms.MAX_THRESHOLDS + 2
    binned = found.resample(np.ones((1, 30)))
    for name, metric in PIXEL_METRICS.items():
        assert metric(binned)[0] == pytest.approx(float(metric(counts)), abs=1e-4), name


def test_intervals_are_those_of_exact_metrics_on_the_same_draws():
    maps, masks = smooth_set(24, 80)
    ids = [index // 3 for index in range(24)]
    found = pixel_metrics(maps, masks, ids, repeats=40, seed=3)
    weights = bootstrap_weights(8, 40, seed=3)
    counts = [pixel_counts(*repeated(maps, masks, ids, row)) for row in weights]
    assert len(counts[0].thresholds) > histograms.MAX_THRESHOLDS
    for name, metric in PIXEL_METRICS.items():
        low, high = np.quantile([float(metric(drawn)) for drawn in counts], [0.025, 0.975])
        assert [found[name].low, found[name].high] == pytest.approx(
            [low, high], abs=0.005 * (high - low)
        ), name
        assert found[name].value == float(metric(pixel_counts(maps, masks)))


def test_chosen_thresholds_hold_the_highest_and_lowest_and_all_where_few():
    counts = pixel_counts(*smooth_set(9, 48))
    few = chosen_thresholds(counts, 64)
    assert len(few) <= 66
    assert (few[0], few[-1]) == (counts.thresholds[0], counts.thresholds[-1])
    assert (np.diff(few) < 0).all()
    np.testing.assert_array_equal(chosen_thresholds(counts, 10**6), counts.thresholds)
