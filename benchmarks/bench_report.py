"""How long `scanomaly bench report` takes on 1,000 finished runs.

    python benchmarks/bench_report.py [WORK] [--runs 1000]

Made-up results of every table of the papers and of ours, 100 to 300 images each with patients,
scores and bootstrap draws of pixel metrics or answers, planned as `bench run` plans them; then the
command, its start included, in a process of its own. On a machine that others use, look at the
processor time.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scanomaly.bench.jobs import Plan, PlannedCell, runs_folder
from scanomaly.bench.results import JobResult, write_result
from scanomaly.bench.tables import TABLES, Cell
from scanomaly.bench.tables.table import METRICS
from scanomaly.metrics import Estimate, Stratum

SEEDS = (0, 1, 2, 3)
LIMIT = 10.0
"""Seconds, for 1,000 runs."""
FEWEST, MOST = 100, 300
IMAGES_OF_A_PATIENT = 4
SIZES = ("0-2.5", "2.5-5", "5-10", "10-20", "20-100")
OF_IMAGES = sorted(name for name in METRICS if name.startswith(("image.", "pixel.")))
OF_ANSWERS = sorted(METRICS.difference(OF_IMAGES))
DRAWS = 1000


def made_up(cell: Cell, seed: int, digest: str) -> JobResult:
    """Images belong to the data set, scores to the experiment."""
    of_set = np.random.default_rng(int(hashlib.md5(cell.dataset.encode()).hexdigest()[:8], 16))
    own = np.random.default_rng(int(digest[:8], 16))
    images = int(of_set.integers(FEWEST, MOST + 1))
    labels = of_set.random(images) < 0.5
    scores = own.normal(size=images) + own.uniform(0.5, 2.0) * labels
    answers = cell.metric in OF_ANSWERS

    def estimate() -> Estimate:
        value = float(own.uniform(0.6, 0.95))
        draws = own.normal(value, 0.02, DRAWS)
        return Estimate(value, value - 0.04, value + 0.04, repeats=DRAWS, draws=draws)

    sized = Estimate(0.8, 0.7, 0.9, repeats=DRAWS)
    return JobResult(
        experiment={"preset": cell.preset, "options": list(cell.options)},
        dataset=cell.dataset,
        protocol="honest",
        seed=seed,
        metrics={name: estimate() for name in (OF_ANSWERS if answers else OF_IMAGES)},
        ids=tuple(f"{cell.dataset}-{index:05}" for index in range(images)),
        patients=tuple(f"patient-{index // IMAGES_OF_A_PATIENT:04}" for index in range(images)),
        labels=(None,) * images if answers else tuple(bool(label) for label in labels),
        scores=tuple(float(score > 0) if answers else float(score) for score in scores),
        by_size={} if answers else {name: Stratum(20, {"auroc": sized}) for name in SIZES},
        seconds=60.0,
        weights=("some-network: Apache-2.0",),
        notes=(f"{cell.dataset}: a note of the evaluation.",),
    )


def fill(out: Path, runs: int) -> int:
    """Write plans and results until there are so many runs; how many there are."""
    written: set[str] = set()
    for name, make in TABLES.items():
        planned = []
        for row, column, cell, seed in _numbers(name):
            words = f"{cell.preset} {cell.options} {cell.dataset} {seed}"
            digest = hashlib.blake2b(words.encode(), digest_size=12).hexdigest()
            if digest not in written and len(written) < runs:
                folder = runs_folder(out, digest)
                folder.mkdir(parents=True)
                write_result(made_up(cell, seed, digest), folder)
                written.add(digest)
            if digest in written:
                cell_data = f"{cell.dataset}, seed {seed}"
                planned.append(PlannedCell(row, column, seed, "honest", digest, (), cell_data))
        Plan(make().name, (), tuple(planned)).save(out)
    return len(written)


def _numbers(name: str) -> Iterator[tuple[str, str, Cell, int]]:
    for seed in SEEDS:
        for row, column, cell in TABLES[name]().experiments():
            yield row, column, cell, seed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.work or Path(temporary)
        runs = fill(out, options.runs)
        command = [sys.executable, "-c", "from scanomaly.cli import main; main()"]
        started = time.monotonic()
        done = subprocess.run([*command, "bench", "report", str(out)], capture_output=True)
        seconds = time.monotonic() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(done.stderr.decode())
        files = list((out / "report").iterdir())
        size = sum(file.stat().st_size for file in files) / 1e6
    busy = used.ru_utime + used.ru_stime
    print(f"{runs} runs, {len(TABLES)} tables: {seconds:.1f} s, {busy:.1f} s of processor time")
    print(f"limit: {LIMIT:g} s for 1,000 runs")
    print(f"{len(files)} files, {size:.1f} MB")


if __name__ == "__main__":
    main()
