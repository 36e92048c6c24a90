"""What the evaluation calls: undefined cases give reasons, mistakes give errors."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from scanomaly.metrics import (
    auroc_by_stratum,
    bin_names,
    bins_of,
    detection,
    image_metrics,
    pixel_metrics,
)

IMAGE_NAMES = ["auroc", "ap", "sensitivity_at_95_specificity"]
PIXEL_NAMES = ["auroc", "ap", "aupro_0.3", "dice_best"]


@pytest.mark.parametrize(
    ("labels", "why"),
    [([0, 0, 0], "one class only: 3 normal, 0 abnormal images"), ([], "no images")],
)
def test_undefined_image_metrics_give_reasons(labels, why):
    found = image_metrics(np.zeros(len(labels)), labels)
    assert list(found) == IMAGE_NAMES
    for estimate in found.values():
        assert estimate.as_dict() == {"value": None, "why": why}


@pytest.mark.parametrize(
    ("masks", "why"),
    [
        (np.zeros((2, 3, 3)), "no positive pixel: 18 pixels in 2 masks"),
        (np.ones((2, 3, 3)), "no negative pixel: 18 pixels in 2 masks"),
        (np.ones((0, 3, 3)), "no maps with a mask"),
    ],
)
def test_undefined_pixel_metrics_give_reasons(masks, why):
    found = pixel_metrics(np.zeros(masks.shape), masks)
    assert list(found) == PIXEL_NAMES
    for estimate in found.values():
        assert estimate.as_dict() == {"value": None, "why": why}


def test_perfect_maps_score_one():
    masks = np.zeros((4, 8, 8), bool)
    masks[:2, 2:5, 2:5] = True
    for estimate in pixel_metrics(masks.astype(float), masks, list("abcd"), repeats=50).values():
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1, 1, 1))


def test_mistakes_stay_errors():
    with pytest.raises(ValueError, match="NaN"):
        image_metrics([np.nan, 1.0], [0, 1])
    with pytest.raises(ValueError, match="3 groups for 2 images"):
        image_metrics([0.0, 1.0], [0, 1], list("abc"))
    with pytest.raises(ValueError, match="its mask is"):
        pixel_metrics([np.zeros((2, 2))], [np.zeros((3, 3))])
    with pytest.raises(ValueError, match="1 strata for 2 images"):
        auroc_by_stratum([0.0, 1.0], [0, 1], ["a"])


def lesions(seed=0, images=80):
    """Scores that grow with the lesion's diameter; NaN diameters are healthy."""
    rng = np.random.default_rng(seed)
    diameters = np.where(rng.random(images) < 0.5, rng.uniform(4, 40, images), np.nan)
    scores = rng.standard_normal(images) + np.nan_to_num(diameters) / 15
    return scores, ~np.isnan(diameters), diameters


def test_each_stratum_is_set_against_all_negatives():
    scores, labels, diameters = lesions()
    edges = [4, 6, 10, 15, 25, 40]
    found = auroc_by_stratum(
        scores, labels, bins_of(diameters, edges), names=bin_names(edges), repeats=50
    )
    assert list(found) == ["4-6", "6-10", "10-15", "15-25", "25-40"]
    assert sum(stratum.positives for stratum in found.values()) == labels.sum()
    for low, high, (name, stratum) in zip(edges, edges[1:], found.items(), strict=False):
        kept = ~labels | ((diameters >= low) & (diameters < high))
        expected = roc_auc_score(labels[kept], scores[kept])
        assert stratum.metrics["auroc"].value == pytest.approx(expected), name
        expected = detection.sensitivity(scores[kept], labels[kept])
        assert stratum.metrics["sensitivity_at_95_specificity"].value == expected
        assert stratum.metrics["auroc"].low <= stratum.metrics["auroc"].value


def test_empty_strata_say_why_and_unnamed_ones_are_found():
    scores, labels = [0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1]
    strata = ["mass", None, "mass", None]
    found = auroc_by_stratum(scores, labels, strata, names=["infarct"], repeats=10)
    assert found["infarct"].positives == 0
    assert found["infarct"].metrics["auroc"].as_dict() == {
        "value": None,
        "why": "one class only: 2 normal, 0 abnormal images",
    }
    assert list(auroc_by_stratum(scores, labels, strata, repeats=10)) == ["mass"]


def test_bins_hold_their_lower_edge_and_the_last_both():
    assert bins_of([3.9, 4, 5.9, 6, 10, 10.1, np.nan], [4, 6, 10]) == [
        None, "4-6", "4-6", "6-10", "6-10", None, None,
    ]  # fmt: skip
    assert bin_names([0.5, 1, 2]) == ["0.5-1", "1-2"]


def test_image_intervals_keep_patients_together():
    scores, labels, _ = lesions()
    ids = [index // 8 for index in range(80)]
    found = image_metrics(scores, labels, ids, repeats=50)["auroc"]
    assert found != image_metrics(scores, labels, repeats=50)["auroc"]
    assert found.value == detection.auroc(scores, labels)
