"""`scanomaly score` over 100,000 rows, killed once in the middle: every id exactly once.

    python benchmarks/score_soak.py [--rows 100000] [--workers 2] [--files 4000] [--pair 20000]

Simulates small images (32 px PNG) that many ids share, and a run folder of a very small network
with random weights, so that decoding, bookkeeping and writing are measured rather than a network.
The command gets SIGKILL when half of the shards are there and is then given again. Printed: rows,
ids that are missing or there twice, whether scores are those of a command that nobody killed (on
the first shards), images per second, and the resident memory of all its processes in the first and
the second half of each session, from its first shard on. --pair N: N rows with two workers against
two commands of one worker at the same time, which share the work.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.dataset
from PIL import Image

from scanomaly.checkpoint import save_calibration, save_detector
from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.qfae import (
    AutoencoderConfig,
    DecoderConfig,
    EncoderConfig,
    PerceptualConfig,
    ScoreConfig,
    ViewsConfig,
)
from scanomaly.config.run import Run
from scanomaly.data.manifest import Manifest, Row
from scanomaly.inference import FittedDetector
from scanomaly.methods import METHODS

SIDE = 32
BROKEN = {7: "missing.png", 8: "text.png"}
"""Of every thousand rows: a file that is not there, and one that is no image."""
COMMAND = (sys.executable, "-c", "from scanomaly.cli import main; main()", "score")


def write_images(folder: Path, count: int) -> list[Path]:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / BROKEN[8]).write_text("not an image")
    files = [folder / f"{index}.png" for index in range(count)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(file)
    return files


def write_manifest(path: Path, files: list[Path], rows: range) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.write("id,path,label,patient\n")
        for index in rows:
            name = BROKEN.get(index % 1000, files[index % len(files)].name)
            file.write(f"scan-{index},images/{name},{index % 2},patient-{index // 10}\n")
    return path


def write_run(folder: Path, files: list[Path]) -> Path:
    """A run folder as `fit` would leave it, of a small untrained network."""
    backbone = BackboneConfig(name="vit_tiny_patch16_224", weights="random", side=SIDE)
    config = AutoencoderConfig(
        side=SIDE,
        encoders=(EncoderConfig(backbone=backbone, blocks=(-1,)),),
        decoder=DecoderConfig(width=24, depth=1, heads=2, mlp_ratio=2.0, patch=16),
        perceptual=PerceptualConfig(backbone=backbone),
        score=ScoreConfig(sources=("mae",)),
        loss_views=ViewsConfig(blocks=(1,), patches=(16,)),
        score_views=ViewsConfig(blocks=(1,), patches=(16,)),
    )
    run = Run(preset="soak", source="benchmark", method="autoencoder", config=config)
    detector = METHODS["autoencoder"].build(config).eval()
    normals = Manifest(tuple(Row(file.stem, file) for file in files[:64]), "soak", "benchmark")
    save_calibration(FittedDetector(run, detector).calibrated(normals, "benchmark"), folder)
    save_detector(detector, run, folder)
    return folder


class MemoryWatch:
    """Resident memory of a process and its children, summed, twice a second once it is `ready`."""

    def __init__(self, process: int, ready: Callable[[], bool]) -> None:
        self.sums: list[int] = []
        self._process, self._ready, self._end = process, ready, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            if self._ready():
                self.sums.append(sum(map(resident, family(self._process))))

    def halves(self) -> tuple[int, int]:
        """Peak MiB of the first and of the second half."""
        self._end.set()
        self._thread.join()
        middle = len(self.sums) // 2
        return max(self.sums[:middle], default=0) >> 20, max(self.sums[middle:], default=0) >> 20


def family(process: int) -> list[int]:
    with suppress(OSError):
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [process, *(one for child in children for one in family(int(child)))]
    return []


def resident(process: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    return 0


def processor_seconds() -> float:
    """Of commands that have ended, with their workers."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def finished(out: Path) -> int:
    return len(list((out / "shards").glob("*.parquet")))


def session(words: list[str | Path], kill_at: int | None, out: Path) -> None:
    """One command, killed once so many shards are there; what it took is printed."""
    before, start, spent = finished(out), time.monotonic(), processor_seconds()
    process = subprocess.Popen([*COMMAND, *words])
    watch = MemoryWatch(process.pid, lambda: finished(out) > before)
    while process.poll() is None:
        if kill_at is not None and finished(out) >= kill_at:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    seconds, shards = time.monotonic() - start, finished(out) - before
    first, second = watch.halves()
    print(f"ended with {process.returncode}: {shards} shards in {seconds:.1f} s (start included)")
    if kill_at is None:  # of a killed command nobody counts the workers' time
        print(f"  processor {processor_seconds() - spent:.1f} s, its start included")
    print(f"  resident memory of all processes: {first} MiB in the first half, {second} after")
    assert process.returncode == (0 if kill_at is None else -signal.SIGKILL)


def compare(out: Path, whole: Path, rows: int) -> None:
    """Print what is wrong with the rows, and with the scores where `whole` has them too."""
    table = pyarrow.dataset.dataset(out / "shards").to_table().to_pydict()
    counts = Counter(table["id"])
    missing = sum(f"scan-{index}" not in counts for index in range(rows))
    twice = sum(count > 1 for count in counts.values())
    failed = sum(error is not None for error in table["error"])
    print(f"rows {len(table['id'])} of {rows}; ids missing {missing}, twice {twice}")
    print(f"images that could not be scored: {failed} (made: {2 * rows // 1000})")
    scores = dict(zip(table["id"], table["score"], strict=True))
    other = pyarrow.dataset.dataset(whole / "shards").to_table(columns=["id", "score"]).to_pydict()
    pairs = zip(other["id"], other["score"], strict=True)
    differing = sum(scores[name] != score for name, score in pairs)
    print(f"scores that differ from an uninterrupted command: {differing} of {len(other['id'])}")
    assert len(table["id"]) == rows
    assert missing == twice == differing == 0


def soak(work: Path, files: list[Path], run: Path, rows: int, workers: int) -> None:
    manifest = write_manifest(work / "manifest.csv", files, range(rows))
    out, shards = work / "scores", -(-rows // 2000)
    words: list[str | Path] = [run, manifest, "--out", out, "--workers", str(workers)]
    start = time.monotonic()
    session(words, max(1, shards // 2), out)
    halves = list((out / "shards").glob(".*.part"))
    print(f"  killed with {finished(out)} of {shards} shards, {len(halves)} halves of files")
    session(words, None, out)
    print(f"both sessions: {rows / (time.monotonic() - start):.0f} images/s, start included")
    few = write_manifest(work / "few.csv", files, range(min(rows, 4000)))
    subprocess.run([*COMMAND, run, few, "--out", work / "whole"], check=True)
    compare(out, work / "whole", rows)


def pair(work: Path, files: list[Path], run: Path, rows: int) -> None:
    """Two workers of one command against two commands at the same time."""
    halves = [range(rows // 2), range(rows // 2, rows)]
    manifests = [
        write_manifest(work / f"half{index}.csv", files, half) for index, half in enumerate(halves)
    ]
    both = write_manifest(work / "both.csv", files, range(rows))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    commands = [
        subprocess.Popen(
            [*COMMAND, str(run), str(one), "--out", str(work / one.stem)], env=environment
        )
        for one in manifests
    ]
    assert [command.wait() for command in commands] == [0, 0]
    separate = time.monotonic() - start
    start = time.monotonic()
    words: list[str | Path] = [*COMMAND, run, both, "--out", work / "both", "--workers", "2"]
    subprocess.run(words, env=environment, check=True)
    together = time.monotonic() - start
    print(
        f"two commands {rows / separate:.0f} images/s, two workers {rows / together:.0f}: "
        f"{separate / together:.2f} (target 0.9)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pair", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = write_images(work / "images", options.files)
        run = write_run(work / "run", files)
        if options.pair:
            pair(work, files, run, options.pair)
        else:
            soak(work, files, run, options.rows, options.workers)


if __name__ == "__main__":
    main()
