"""Time of contenders in interleaved rounds, of one call; peak memory of a process, of tensors."""

import statistics
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch.profiler import profile

Work = Callable[[], Any]
Clock = Callable[[], float]


class Stopwatch:
    """Rounds of all contenders, one after the other, on one kind of clock."""

    def __init__(self, rounds: int, clock: Clock) -> None:
        self.rounds, self.clock = rounds, clock

    def seconds(self, contenders: Mapping[str, Work]) -> dict[str, list[float]]:
        """Of every contender in every round."""
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(self.rounds):
            for name, work in contenders.items():
                start = self.clock()
                work()
                times[name].append(self.clock() - start)
        return times


def print_ratios(title: str, times: dict[str, list[float]], targets: dict[str, float]) -> None:
    plain = times["plain"]
    print(f"{title}: plain {statistics.median(plain):.2f} s", flush=True)
    for name, target in targets.items():
        ratios = sorted(slow / fast for slow, fast in zip(plain, times[name], strict=True))
        print(
            f"  {name} {statistics.median(times[name]):.2f} s, {statistics.median(ratios):.2f}x "
            f"(target {target}x; {ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)"
        )


def per_call(work: Work, seconds: float = 2.0) -> float:
    """Processor seconds of one call, over about so many; one call before them warms up."""
    work()
    start, calls = time.process_time(), 0
    while time.process_time() - start < seconds:
        work()
        calls += 1
    return (time.process_time() - start) / calls


def resident_peak() -> int:
    """VmHWM of this process in bytes since the last call; the next peak starts at the present."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def peak_of_tensors(work: Work) -> int:
    """Bytes that tensors made by `work` hold at most at once, beyond those there were before."""
    with profile(profile_memory=True) as found:
        work()
    assert found.profiler is not None
    results: Any = found.profiler.kineto_results
    changes = [event for event in results.events() if event.name() == "[memory]"]
    held = accumulate(event.nbytes() for event in sorted(changes, key=lambda e: e.start_ns()))
    return max(held, default=0)
