import json
import math
import random

import pytest

from scanomaly.calibration import Calibration


def calibration(scores, rate=0.05) -> Calibration:
    return Calibration.of(list(scores), rate, (0.0, 1.0), "valid: healthy images")


def test_p_value_is_the_rank_among_healthy_scores():
    fitted = calibration([3.0, 1.0, 2.0, 4.0])
    assert fitted.scores == (1.0, 2.0, 3.0, 4.0)
    assert [fitted.p_value(s) for s in (0.5, 1.0, 2.5, 4.0, 9.0)] == [1.0, 1.0, 0.6, 0.4, 0.2]


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.07, 0.1, 0.25, 0.29, 0.3, 0.57])
@pytest.mark.parametrize("count", [1, 2, 9, 19, 20, 99, 100])
def test_flag_threshold_and_p_value_agree(rate, count):
    draw = random.Random(count)
    scores = [draw.choice([0.1, 0.2, 0.3, draw.random()]) for _ in range(count)]  # with ties
    fitted = calibration(scores, rate)
    for score in [*scores, -1.0, 2.0, *(draw.random() for _ in range(50))]:
        flagged = fitted.p_value(score) <= rate + 1e-9
        assert fitted.flagged(score) is flagged
        assert (fitted.threshold is not None and score > fitted.threshold) is flagged
    assert fitted.can_flag is fitted.flagged(math.inf) is (fitted.threshold is not None)


@pytest.mark.parametrize(("count", "can_flag"), [(18, False), (19, True)])
def test_flagging_at_5_percent_takes_19_healthy_images(count, can_flag):
    fitted = calibration(range(count))
    assert fitted.can_flag is can_flag
    assert fitted.flagged(count) is can_flag
    assert fitted.threshold == (count - 1 if can_flag else None)


def test_rounding_decides_nothing():
    """0.29 * 100 is 28.999999999999996: 28 healthy images may still score as high."""
    fitted = calibration(range(99), 0.29)
    assert fitted.p_value(71) == 0.29
    assert fitted.flagged(71)
    assert fitted.threshold == 70


def test_false_alarms_on_exchangeable_images_keep_to_the_rate():
    """Exactly, by leaving each of n + 1 scores out in turn."""
    draw = random.Random(1)
    scores = [draw.random() for _ in range(100)]
    for rate in (0.05, 0.1, 0.33):
        alarms = sum(
            calibration(scores[:i] + scores[i + 1 :], rate).flagged(score)
            for i, score in enumerate(scores)
        )
        assert alarms == math.floor(rate * 100 + 1e-9)


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf]])
def test_scores_that_calibrate_nothing_are_an_error(scores):
    with pytest.raises(ValueError, match="finite scores of at least one healthy image"):
        calibration(scores)


def test_a_score_without_a_rank_is_an_error():
    fitted = calibration(range(99))
    for ask in (fitted.p_value, fitted.flagged):
        with pytest.raises(ValueError, match="expected a score, got NaN: it has no rank"):
            ask(math.nan)


@pytest.mark.parametrize("map_range", [(0.0, math.nan), (-math.inf, 1.0), (1.0,)])
def test_a_map_range_that_scales_nothing_is_an_error(map_range):
    with pytest.raises(ValueError, match="expected two finite map values"):
        Calibration.of([1.0], 0.05, map_range, "valid")


def test_survives_json():
    fitted = calibration([0.1, 1 / 3, 1e-300])
    text = fitted.to_json()
    assert Calibration.from_json(text) == fitted
    assert json.loads(text)["format"] == 1
