"""How far scoring is, how fast it goes, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
"""Speed is that of the last minute: loading weights and other jobs of the machine pass."""
REPORT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """done of total images; per_second: of late, 0 before the first."""

    done: int
    total: int
    per_second: float

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.per_second if self.per_second > 0 else None

    def __str__(self) -> str:
        words = f"{self.done:,} of {self.total:,} images"
        if self.seconds_left is None:
            return words
        return f"{words}, {self.per_second:,.1f} images/s, {_duration(self.seconds_left)} left"


class Meter:
    """Counts images and reports now and then. done: those of earlier sessions."""

    def __init__(
        self,
        done: int,
        total: int,
        report: Callable[[Progress], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._done, self._total = done, total
        self._report, self._clock = report, clock
        self._started = self._reported = clock()
        self._past = deque([(self._started, done)])
        self._before = done

    def tick(self, count: int) -> None:
        self._done += count
        now = self._clock()
        if self._report is not None and now - self._reported >= REPORT_SECONDS:
            self._reported = now
            self._report(self._progress(now))

    def _progress(self, now: float) -> Progress:
        self._past.append((now, self._done))
        while len(self._past) > 2 and now - self._past[1][0] > WINDOW_SECONDS:
            self._past.popleft()
        then, before = self._past[0]
        speed = (self._done - before) / (now - then) if now > then else 0.0
        return Progress(self._done, self._total, speed)

    @property
    def images(self) -> int:
        """Of this session."""
        return self._done - self._before

    @property
    def seconds(self) -> float:
        return self._clock() - self._started


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
