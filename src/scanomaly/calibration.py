"""What a score means: its rank among held-out healthy images."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import Any, Self

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """Healthy scores and map range, fitted on images that did not train the model.

    scores: ascending. map_range: map values shown as nothing and as certain, for every picture.
    """

    scores: tuple[float, ...]
    false_alarm_rate: float
    map_range: tuple[float, float]
    source: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not self.scores or not all(math.isfinite(s) for s in self.scores):
            raise ValueError(
                "expected finite scores of at least one healthy image, "
                f"got {len(self.scores)} scores."
            )
        if len(self.map_range) != 2 or not all(math.isfinite(m) for m in self.map_range):
            raise ValueError(f"expected two finite map values, got {self.map_range}.")

    @classmethod
    def of(
        cls,
        scores: list[float],
        false_alarm_rate: float,
        map_range: tuple[float, float],
        source: str,
    ) -> Self:
        return cls(tuple(sorted(scores)), false_alarm_rate, map_range, source)

    @classmethod
    def from_json(cls, text: str) -> Self:
        values: dict[str, Any] = json.loads(text)
        values["scores"] = tuple(values["scores"])
        values["map_range"] = tuple(values["map_range"])
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def p_value(self, score: float) -> float:
        """Conformal p-value: (1 + healthy images that score at least this high) / (n + 1)."""
        return (1 + self._higher(score)) / (len(self.scores) + 1)

    def flagged(self, score: float) -> bool:
        """True for at most a share `false_alarm_rate` of exchangeable healthy images."""
        return self._higher(score) <= self._allowed

    @property
    def can_flag(self) -> bool:
        """Whether there are enough healthy images for any score to be flagged."""
        return self._allowed >= 0

    @property
    def threshold(self) -> float | None:
        """The highest healthy score that is not exceeded by a flagged one; None if none can be."""
        return self.scores[len(self.scores) - 1 - self._allowed] if self.can_flag else None

    @property
    def _allowed(self) -> int:
        """How many healthy images may score as high as a flagged one; -1 = nothing is flagged."""
        return math.floor(self.false_alarm_rate * (len(self.scores) + 1) + 1e-9) - 1

    def _higher(self, score: float) -> int:
        if math.isnan(score):
            raise ValueError("expected a score, got NaN: it has no rank among healthy images.")
        return len(self.scores) - bisect_left(self.scores, score)
