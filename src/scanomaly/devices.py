"""Which device computes."""

from __future__ import annotations

import torch

from scanomaly.errors import DataError


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises DataError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"device {name!r} cannot be used here ({reason}); try cpu.") from error
    return device
