"""What scoring costs beside the network, per image: decoding, the manifest, shards.

    python benchmarks/score_costs.py [--rows 10000000]

Seconds are those of the processor on one thread, so that other jobs of the machine hardly count.
Decoding is all between the file and the batch: reading (from the cache of the disk), decompressing,
intensity window, resizing to 224 px. Pictures are smooth shapes under noise, which PNG compresses
about as badly as scans. The manifest has an id of 20 letters, a path, a label and a patient a row;
its check and its passes are those of `scanomaly score`.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from measuring import per_call
from scanomaly.config.data import DataConfig, InputSpec
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.manifest import Manifest, Row
from scanomaly.data.streaming import StreamedManifest
from scanomaly.scoring.shards import shard_file, write_table

KINDS = (
    ("PNG, 8 bits", ".png", 240, np.uint8),
    ("PNG, 8 bits", ".png", 512, np.uint8),
    ("PNG, 16 bits", ".png", 512, np.uint16),
    ("JPEG", ".jpg", 1024, np.uint8),
    ("PNG, 16 bits", ".png", 2048, np.uint16),
)
SHARD_ROWS = 2000


def picture(side: int, kind: Any) -> NDArray[Any]:
    random = np.random.default_rng(side)
    coarse = random.uniform(0.1, 0.9, (8, 8))
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    noisy = (smooth + random.normal(0, 0.01, smooth.shape)).clip(0, 1)
    return np.asarray((noisy * np.iinfo(kind).max).round(), kind)


def decoding(folder: Path) -> None:
    data, spec = DataConfig(window=(0.0, 65535.0)), InputSpec(side=224)
    for name, suffix, side, kind in KINDS:
        file = folder / f"{side}-{np.dtype(kind)}{suffix}"
        cv2.imwrite(str(file), picture(side, kind))
        images = ImageDataset(Manifest((Row("x", file),), "", ""), spec, data)
        seconds = per_call(lambda images=images: images[0])  # type: ignore[misc]
        print(
            f"{name}, {side} px, {file.stat().st_size / 1e6:.2f} MB: {1e3 * seconds:.2f} ms an "
            f"image, {1 / seconds:.0f} images/s on one core",
            flush=True,
        )


def writing(folder: Path) -> None:
    random, names = np.random.default_rng(0), [f"study-{i:09d}-slice" for i in range(SHARD_ROWS)]
    lines = [(name, "p", False, random.random(), 0.5, False, None) for name in names]
    file = shard_file(folder, 0)
    seconds = per_call(lambda: write_table(file, lines))
    print(
        f"shard of {SHARD_ROWS} rows: {1e3 * seconds:.1f} ms, {1e6 * seconds / SHARD_ROWS:.1f} us "
        f"and {file.stat().st_size / SHARD_ROWS:.0f} bytes a row"
    )


def manifest_passes(folder: Path, count: int) -> None:
    path = folder / "manifest.csv"
    with path.open("w") as file:
        file.write("id,path,label,patient\n")
        for i in range(count):
            file.write(f"study-{i:09d}-slice,images/{i % 4000:05d}/picture.png,,p{i // 10}\n")
    manifest, before = StreamedManifest(path), peak()
    print(f"manifest of {count:,} rows, {path.stat().st_size / 1e6:.0f} MB:")

    def empty_pass() -> int:
        return sum(1 for _ in manifest.shards(SHARD_ROWS))

    def full_pass() -> int:
        return sum(len(manifest.rows_of(table)) for _, table in manifest.shards(SHARD_ROWS))

    works = {
        "digest": manifest.digest,
        "check of ids, paths and labels": manifest.check,
        "pass over finished shards": empty_pass,
        "pass that makes all rows": full_pass,
    }
    for name, work in works.items():
        wall, start = time.monotonic(), time.process_time()
        work()
        seconds = time.process_time() - start
        print(
            f"  {name}: {seconds:.1f} s of the processor, {1e6 * seconds / count:.2f} us a row "
            f"({time.monotonic() - wall:.1f} s on the clock)",
            flush=True,
        )
    print(f"  peak memory {peak() >> 20} MiB, {(peak() - before) >> 20} MiB of it for the passes")


def peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest_passes(Path(folder), options.rows)  # first: memory of other work is not its own
        writing(Path(folder))
        decoding(Path(folder))


if __name__ == "__main__":
    main()
