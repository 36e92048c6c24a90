"""Which device computes; names that are no device are tested where they are given."""

import torch

from scanomaly.devices import resolve_device


def test_auto_is_the_best_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == torch.device("cpu")
