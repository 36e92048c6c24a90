"""Comparing with what the published code returned."""

from collections.abc import Mapping

import torch
from torch import Tensor


def assert_parity(found: Tensor, published: Tensor, tolerance: float = 1e-5) -> None:
    """Equal shapes, and values within `tolerance` of the largest one (of 1 if that is smaller)."""
    atol = tolerance * max(1.0, published.abs().max().item())
    torch.testing.assert_close(found, published, rtol=0, atol=atol)


def weights(table: Mapping[str, Tensor], start: str = "w.") -> dict[str, Tensor]:
    """The tensors of a golden file whose keys begin so, without that beginning."""
    return {k.removeprefix(start): v for k, v in table.items() if k.startswith(start)}
