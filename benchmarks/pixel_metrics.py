"""Pixel AUROC + AP against scikit-learn, AUPRO against anomalib: time, difference and memory.

    python benchmarks/pixel_metrics.py [--images 1000] [--seed 0]

Everything is measured in one run on one data set: smooth maps of 240x240 in float32, raised under
smooth-edged discs in every second image so that both classes overlap, 2 % positive pixels. The
rivals run once; ours is the median of runs before, between and after them. Our time always covers
all four pixel metrics (the masks' regions included), the rivals' only the metrics named. Memory is
the peak resident size above the resident size with the inputs loaded, in a process of its own
(Linux: /proc).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from scanomaly.metrics import (
    area_under_pro,
    area_under_roc,
    average_precision,
    best_dice,
    pixel_counts,
    pixel_metrics,
)

SIDE = 240
RUNS = 3  # of ours before, between and after the rivals
BRAIN_TEST_IMAGES = 3715
MIB = 1 << 20

Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]
Result = TypeVar("Result")


def make_data(images: int, seed: int) -> tuple[Maps, Masks]:
    """Maps and masks, (images, 240, 240)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    maps, masks = np.empty((images, SIDE, SIDE), np.float32), np.zeros((images, SIDE, SIDE), bool)
    for index in range(images):
        coarse = rng.standard_normal((15, 15), dtype=np.float32)
        background = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        for _ in range(2 * (index % 2)):
            row, column = rng.uniform(25, SIDE - 25, 2)
            radius = rng.uniform(10, 27)
            masks[index] |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        lesion = cv2.GaussianBlur(masks[index].astype(np.float32), (0, 0), 4)
        noise = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
        maps[index] = background + 2 * lesion + 0.02 * noise
    return maps, masks


def ours(maps: Maps, masks: Masks) -> dict[str, float]:
    """All four pixel metrics, exact."""
    counts = pixel_counts(maps, masks)
    return {
        "auroc": float(area_under_roc(counts)),
        "ap": float(average_precision(counts)),
        "aupro": float(area_under_pro(counts)),
        "dice": float(best_dice(counts)),
    }


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def anomalib_aupro(maps: Maps, masks: Masks) -> float:
    """anomalib's AUPRO@0.3 of the same pixels."""
    import torch
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks))
    return float(metric.compute())


def anomalib_timed(maps: Maps, masks: Masks) -> tuple[float, float] | None:
    """AUPRO and the seconds it took; None, and a line that says so, where it is not installed."""
    try:
        anomalib_aupro(maps[:4], masks[:4])  # its import is not timed
    except ImportError as missing:
        print(f"anomalib AUPRO: not compared ({missing})")
        return None
    return timed(lambda: anomalib_aupro(maps, masks))


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10


def measure_memory(images: int, seed: int, *, intervals: bool) -> None:
    """Print as JSON what a process holding only the inputs needs above them, and the seconds."""
    maps, masks = make_data(images, seed)
    ours(maps[:2], masks[:2])  # imports and thread pools are not the metric's
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present
    work = pixel_metrics if intervals else ours
    seconds = timed(lambda: work(maps, masks))[1]
    print(json.dumps({"bytes": resident("VmHWM") - before, "seconds": seconds}))


def memory_in_own_process(images: int, seed: int, *flags: str) -> dict[str, float]:
    """Run `measure_memory` in a fresh process."""
    command = [sys.executable, __file__, "--measure-memory", "--images", str(images)]
    output = subprocess.run(
        [*command, "--seed", str(seed), *flags], check=True, capture_output=True, text=True
    ).stdout
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


def compare(images: int, seed: int) -> None:
    """Time ours, scikit-learn's and anomalib's on one data set, and print ratios."""
    maps, masks = make_data(images, seed)
    print(f"{images} maps of {SIDE}x{SIDE}: {maps.size:,} pixels, {masks.mean():.2%} positive")
    labels, scores = masks.ravel(), maps.ravel()
    runs = [timed(lambda: ours(maps, masks)) for _ in range(RUNS)]
    auroc, auroc_seconds = timed(lambda: roc_auc_score(labels, scores))
    ap, ap_seconds = timed(lambda: average_precision_score(labels, scores))
    runs += [timed(lambda: ours(maps, masks)) for _ in range(RUNS)]
    anomalib = anomalib_timed(maps, masks)
    runs += [timed(lambda: ours(maps, masks)) for _ in range(RUNS)]

    values, times = runs[0][0], sorted(run[1] for run in runs)
    seconds = statistics.median(times)
    print(
        f"ours, all four metrics: {seconds:.2f} s (median of {len(runs)}, "
        f"{times[0]:.2f} to {times[-1]:.2f}); {values}"
    )
    print(
        f"scikit-learn AUROC + AP: {auroc_seconds:.1f} + {ap_seconds:.1f} s, ratio "
        f"{(auroc_seconds + ap_seconds) / seconds:.0f}x (target 25x); differences "
        f"{abs(auroc - values['auroc']):.1e}, {abs(ap - values['ap']):.1e} (target 1e-9)"
    )
    if anomalib is not None:
        aupro, slow = anomalib
        print(
            f"anomalib AUPRO@0.3, same pixels: {slow:.1f} s, ratio {slow / seconds:.0f}x "
            f"(target 8x); difference {abs(aupro - values['aupro']):.1e} (target 1e-6)"
        )


def report_memory(images: int, seed: int) -> None:
    """Print the memory above the inputs, for this size and for BMAD's largest test set."""
    exact = memory_in_own_process(images, seed)
    print(f"memory above the inputs: {exact['bytes'] / MIB:.0f} MiB (target 0.5 GB)")
    largest = memory_in_own_process(BRAIN_TEST_IMAGES, seed, "--intervals")
    print(
        f"{BRAIN_TEST_IMAGES} maps with bootstrap intervals per image: {largest['seconds']:.1f} s, "
        f"{largest['bytes'] / MIB:.0f} MiB above the inputs (target 2 GB)"
    )


def main() -> None:
    """Compare, then measure memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure-memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--intervals", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        measure_memory(options.images, options.seed, intervals=options.intervals)
        return
    compare(options.images, options.seed)
    report_memory(options.images, options.seed)


if __name__ == "__main__":
    main()
