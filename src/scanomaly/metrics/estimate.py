"""What a metric gives: a number with its interval, or the reason why there is none."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


class UndefinedMetric(ValueError):  # noqa: N818 - a state of the data, not a mistake
    """A metric has no value on this data; the message says why."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value and its 95 % interval.

    value: the metric on the whole sample; None where it is undefined.
    low, high: bounds of the interval; None where there is no value or no interval.
    why: the reason for whatever is missing.
    repeats: bootstrap repeats asked for; dropped: those in which the metric was undefined,
    so that the interval rests on `repeats - dropped` of them.
    draws: (repeats,) the metric of each, NaN where it was undefined; None where it was not kept.
    Metrics of the same items in the same order are drawn alike, so that draws can be subtracted.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str | None = None
    repeats: int = 0
    dropped: int = 0
    draws: NDArray[np.floating[Any]] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def undefined(cls, why: str) -> "Estimate":
        """No value, and the reason."""
        return cls(value=None, why=why)

    def as_dict(self) -> dict[str, float | str | None]:
        """For JSON: {"value", "low", "high"} or {"value": None, "why"}.

        A value without interval has low and high None and its reason under "why".
        """
        if self.value is None:
            return {"value": None, "why": self.why}
        bounds: dict[str, float | str | None] = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
        }
        return bounds if self.low is not None else bounds | {"why": self.why}
