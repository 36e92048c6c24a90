import json

import pytest

from scanomaly.metrics import Estimate, UndefinedMetric


def test_value_with_interval_serialises_to_three_numbers():
    estimate = Estimate(0.8, 0.7, 0.9, repeats=1000, dropped=3)
    assert json.loads(json.dumps(estimate.as_dict())) == {"value": 0.8, "low": 0.7, "high": 0.9}


def test_undefined_serialises_to_its_reason():
    assert Estimate.undefined("no images").as_dict() == {"value": None, "why": "no images"}


def test_value_without_interval_says_why():
    estimate = Estimate(0.8, why="one patient")
    assert estimate.as_dict() == {"value": 0.8, "low": None, "high": None, "why": "one patient"}


def test_undefined_metric_is_a_value_error():
    with pytest.raises(ValueError, match="because"):
        raise UndefinedMetric("because")
