"""`scanomaly doctor` on 10,000 images of 240x240: seconds and peak memory of all its processes.

    python benchmarks/doctor_speed.py [--images 10000] [--workers 2]

Targets: under 90 s on 2 cores, memory under 1 GB. The images are made in a temporary folder first:
smooth heads with texture and noise, one after the other, and a mask for each abnormal one.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 240
SECONDS, MEGABYTES = 90, 1000
SHARES = (("train", "good", 0.7), ("test", "good", 0.15), ("test", "Ungood", 0.15))
"""Split, class and share of the images."""


def picture(seed: int) -> NDArray[np.uint8]:
    """A bright ellipse of cloudy texture on black."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(40, 200, (12, 12)).astype(np.float32)
    grey = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    grey = grey + random.normal(0, 4, grey.shape)
    rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    grey[(rows / 0.9) ** 2 + (columns / 0.7) ** 2 > 1] = 0
    return grey.clip(0, 255).astype(np.uint8)


def write_set(root: Path, images: int) -> int:
    """Writes the set; returns how many files there are."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[90:120, 100:140] = 255
    seed = 0
    for split, kind, share in SHARES:
        folder = root / split / kind
        (folder / "img").mkdir(parents=True)
        if kind == "Ungood":
            (folder / "label").mkdir()
        for _ in range(round(share * images)):
            cv2.imwrite(str(folder / "img" / f"{seed:05d}.png"), picture(seed))
            if kind == "Ungood":
                cv2.imwrite(str(folder / "label" / f"{seed:05d}.png"), mask)
            seed += 1
    return sum(1 for _ in root.rglob("*.png"))


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from family(int(child))


def memory_of(pid: int) -> float:
    """Proportional memory (pages shared between processes count once) in MB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def watch(pid: int, ended: threading.Event, peak: list[float]) -> None:
    while not ended.wait(0.2):
        try:
            peak[0] = max(peak[0], sum(map(memory_of, list(family(pid)))))
        except OSError:  # a process ended while it was looked at
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        files = write_set(root, options.images)
        words = ["doctor", str(root), "--workers", str(options.workers)]
        start = time.perf_counter()
        code = "from scanomaly.cli import main; main()"
        process = subprocess.Popen([sys.executable, "-c", code, *words])
        ended, peak = threading.Event(), [0.0]
        watcher = threading.Thread(target=watch, args=(process.pid, ended, peak))
        watcher.start()
        failed = process.wait()
        seconds = time.perf_counter() - start
        ended.set()
        watcher.join()
    print(
        f"{options.images} images ({files} files) of {SIDE}x{SIDE}, {options.workers} workers: "
        f"{seconds:.1f} s (target {SECONDS}), peak {peak[0]:.0f} MB (target {MEGABYTES}), "
        f"exit code {failed}"
    )


if __name__ == "__main__":
    main()
