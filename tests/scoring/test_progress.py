"""Speed of late, time left, and when it is told."""

import pytest

from scanomaly.scoring.progress import Meter, Progress


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_tells_now_and_then():
    clock, told = Clock(), list[Progress]()
    meter = Meter(100, 1100, told.append, clock)
    for _ in range(100):
        clock.now += 0.1
        meter.tick(2)
    assert 15 <= len(told) <= 20
    last = told[-1]
    assert last.per_second == pytest.approx(20)
    assert last.seconds_left == pytest.approx((1100 - last.done) / 20)
    assert (meter.images, meter.seconds) == (200, pytest.approx(10))


def test_the_past_is_forgotten():
    clock, told = Clock(), list[Progress]()
    meter = Meter(0, 10_000, told.append, clock)
    for images in (1, 50):
        for _ in range(100):
            clock.now += 1
            meter.tick(images)
    assert told[-1].per_second == pytest.approx(50)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(0, 5000, 0.0), "0 of 5,000 images"),
        (Progress(2000, 5000, 10.0), "2,000 of 5,000 images, 10.0 images/s, 5 min 00 s left"),
        (Progress(0, 72_060, 10.0), "0 of 72,060 images, 10.0 images/s, 2 h 00 min left"),
    ],
)
def test_words(progress, words):
    assert str(progress) == words
