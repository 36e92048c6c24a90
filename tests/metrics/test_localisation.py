"""Pixel metrics against scikit-learn, plain loops and numbers stored from anomalib."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from scanomaly.metrics import (
    UndefinedMetric,
    area_under_pro,
    area_under_roc,
    average_precision,
    best_dice,
    best_dice_threshold,
    image_counts,
    localisation,
    pixel_counts,
)


def random_set(seed, sizes, *, levels=None, dtype=np.float32):
    """Maps and masks of the given sizes; `levels` distinct scores make ties."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for height, width in sizes:
        mask = np.zeros((height, width), bool)
        for _ in range(rng.integers(0, 4)):
            row, column = rng.integers(height), rng.integers(width)
            mask[row : row + rng.integers(1, 6), column : column + rng.integers(1, 6)] = True
        scores = rng.standard_normal((height, width)) + 0.8 * mask
        scores = scores if levels is None else np.round(scores * levels / 4)
        maps.append(scores.astype(dtype))
        masks.append(mask)
    return maps, masks


SETS = {
    "continuous": random_set(0, [(20, 24)] * 8),
    "ties": random_set(1, [(20, 24)] * 8, levels=6),
    "unequal sizes": random_set(2, [(7, 31), (40, 12), (16, 16), (25, 3), (9, 9)]),
    "unequal with ties": random_set(3, [(7, 31), (40, 12), (16, 16), (25, 3)], levels=3),
    "float64": random_set(4, [(20, 24)] * 6, dtype=np.float64),
    "float16": random_set(5, [(20, 24)] * 6, dtype=np.float16),
    "uint8": random_set(6, [(20, 24)] * 6, levels=40, dtype=np.uint8),
}


@pytest.fixture(params=SETS)
def pixels(request):
    return SETS[request.param]


def flat(arrays):
    return np.concatenate([array.ravel() for array in arrays])


def plain_regions(mask):
    """Lists of the pixels of each 8-connected region, by flood fill."""
    todo = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    regions = []
    while todo:
        front = [todo.pop()]
        region = list(front)
        while front:
            row, column = front.pop()
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & todo
            todo -= around
            front += around
            region += around
        regions.append(region)
    return regions


def plain_aupro(maps, masks, limit):
    """Every threshold over all pixels, mean overlap of regions, area by trapezoids."""
    regions = [
        np.array([scores[place] for place in region])
        for scores, mask in zip(maps, masks, strict=True)
        for region in plain_regions(mask)
    ]
    negatives = flat(maps)[~flat(masks)]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(flat(maps))[::-1]:
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        curve.append((np.mean(negatives >= threshold), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < x1 and x0 < limit:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def test_auroc_and_ap_equal_scikit_learn(pixels):
    maps, masks = pixels
    counts = pixel_counts(maps, masks)
    labels, scores = flat(masks), flat(maps).astype(float)
    assert float(area_under_roc(counts)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = average_precision_score(labels, scores)
    assert float(average_precision(counts)) == pytest.approx(expected, abs=1e-12)


def test_best_dice_is_the_best_point_of_scikit_learns_curve(pixels):
    maps, masks = pixels
    counts = pixel_counts(maps, masks)
    labels, scores = flat(masks), flat(maps).astype(float)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert float(best_dice(counts)) == pytest.approx(f1.max(), abs=1e-9)
    assert best_dice_threshold(counts) in thresholds[np.isclose(f1[:-1], f1.max())]


def test_aupro_equals_the_plain_loop(pixels):
    maps, masks = pixels
    counts = pixel_counts(maps, masks)
    for limit in (0.05, 0.3, 1.0):
        expected = plain_aupro(maps, masks, limit)
        assert float(area_under_pro(counts, limit)) == pytest.approx(expected, abs=1e-10)


def test_regions_touching_at_a_corner_are_one():
    mask = np.zeros((6, 6), bool)
    mask[1, 1] = mask[2, 2] = mask[2, 3] = True
    scores = np.zeros((6, 6))
    scores[1, 1] = 1.0
    counts = pixel_counts([scores], [mask])
    assert counts.overlap is not None
    assert counts.overlap[0] == pytest.approx(1 / 3)  # two regions would give a half


def arithmetic_set():
    """24 maps of 32x40 from integer arithmetic: the same everywhere, with ties."""
    image, row, column = np.mgrid[:24, :32, :40]
    masks = ((row - 10 - image % 7) ** 2 + (column - 15 - image % 5) ** 2 < 6 * (image % 4)) | (
        (row > 20) & ((column + row) % 19 == image % 9) & (image % 3 == 0)
    )
    scores = (row * 37 + column * column * 17 + image * 29 + row * column * 5) % 101
    return (scores + 40 * masks).astype(np.float32) / 64, masks


def test_aupro_equals_the_numbers_stored_from_anomalib():
    # anomalib 2.7.0, torch 2.15: `metric = _AUPRO(fpr_limit=limit)`, updated with this set
    stored_aupro = {0.05: 0.42716441, 0.1: 0.45959851, 0.3: 0.56665212, 1.0: 0.82652968}
    counts = pixel_counts(*arithmetic_set())
    for limit, stored in stored_aupro.items():
        assert float(area_under_pro(counts, limit)) == pytest.approx(stored, abs=1e-6)


def test_small_pieces_give_the_same_counts(monkeypatch, pixels):
    maps, masks = pixels
    expected = pixel_counts(maps, masks)
    monkeypatch.setattr(localisation, "PIXELS_IN_FLIGHT", 97)
    monkeypatch.setattr(localisation, "LOOKUPS_AT_ONCE", 7)
    counts = pixel_counts(maps, masks)
    assert float(area_under_roc(counts)) == float(area_under_roc(expected))
    np.testing.assert_array_equal(counts.thresholds, expected.thresholds)
    np.testing.assert_array_equal(counts.false_positives, expected.false_positives)
    np.testing.assert_array_equal(counts.false_positives_above, expected.false_positives_above)
    np.testing.assert_array_equal(counts.overlap, expected.overlap)


def test_number_of_threads_changes_nothing(monkeypatch, pixels):
    maps, masks = pixels
    expected = pixel_counts(maps, masks)
    for workers in (1, 3):
        monkeypatch.setattr(localisation, "worker_count", lambda workers=workers: workers)
        counts = pixel_counts(maps, masks)
        np.testing.assert_array_equal(counts.false_positives, expected.false_positives)


def test_memory_above_the_maps_does_not_grow_with_their_number(monkeypatch):
    monkeypatch.setattr(localisation, "PIXELS_IN_FLIGHT", 1 << 16)

    def peak(images):
        maps = np.random.default_rng(0).random((images, 128, 128), dtype=np.float32)
        masks = np.zeros(maps.shape, bool)
        masks[0, :40, :40] = True
        tracemalloc.start()
        pixel_counts(maps, masks)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, maps.nbytes

    few, _ = peak(20)
    many, inputs = peak(200)
    assert many < 1.3 * few
    assert many < 0.1 * inputs


def test_leading_axes_of_one_and_whole_arrays_are_taken_as_they_are():
    maps, masks = SETS["continuous"]
    expected = float(area_under_roc(pixel_counts(maps, masks)))
    stacked = np.stack(maps)[:, None], np.stack(masks)[:, None].astype(np.uint8) * 255
    assert float(area_under_roc(pixel_counts(*stacked))) == expected
    transposed = [np.asfortranarray(scores) for scores in maps]
    assert float(area_under_roc(pixel_counts(transposed, iter(masks)))) == expected


def test_counts_are_those_of_the_flat_pixels(pixels):
    maps, masks = pixels
    counts, plain = pixel_counts(maps, masks), image_counts(flat(maps), flat(masks))
    np.testing.assert_array_equal(counts.thresholds, plain.thresholds)
    np.testing.assert_array_equal(counts.true_positives, plain.true_positives)
    np.testing.assert_array_equal(counts.false_positives_above, plain.false_positives_above)


@pytest.mark.parametrize(
    ("masks", "why"),
    [
        ([np.zeros((3, 4)), np.zeros((3, 4))], "no positive pixel: 24 pixels in 2 masks"),
        ([np.ones((3, 4)), np.ones((3, 4))], "no negative pixel: 24 pixels in 2 masks"),
        ([], "no maps with a mask"),
    ],
)
def test_undefined_cases_say_why(masks, why):
    with pytest.raises(UndefinedMetric, match=why):
        pixel_counts([np.zeros((3, 4))] * len(masks), masks)


def test_per_region_overlap_of_image_scores_is_undefined():
    with pytest.raises(UndefinedMetric, match="needs masks"):
        area_under_pro(image_counts([0.1, 0.2], [0, 1]))


def test_shapes_are_named_in_errors():
    with pytest.raises(ValueError, match=r"map 1 is \(4, 4\) but its mask is \(4, 5\)"):
        pixel_counts([np.zeros((4, 4))] * 2, [np.zeros((4, 4)), np.zeros((4, 5))])
    with pytest.raises(ValueError, match="2 maps but 1 masks"):
        pixel_counts([np.zeros((4, 4))] * 2, [np.zeros((4, 4))])
    with pytest.raises(ValueError, match=r"map 0 has shape \(2, 4, 4\); expected \(H, W\)"):
        pixel_counts([np.zeros((2, 4, 4))], [np.zeros((4, 4))])


@pytest.mark.parametrize("place", [(0, 0), (3, 3)])
def test_nan_is_an_error_that_names_the_map(place):
    maps, mask = np.zeros((3, 4, 4), np.float32), np.zeros((4, 4), bool)
    mask[0, 0] = True
    maps[2][place] = np.nan
    with pytest.raises(ValueError, match="1 of 3 maps hold NaN, the first is map 2") as caught:
        pixel_counts(maps, [mask] * 3)
    assert not isinstance(caught.value, UndefinedMetric)
