"""Jobs per minute of the grid with two workers, against two worker processes of their own.

    python benchmarks/grid_throughput.py WORK [--jobs 8] [--rounds 3] [--threads 1]
    python benchmarks/grid_throughput.py WORK --quick        # does it run?

The same jobs (MVFA few-shot on simulated abdominal CT, one seed each) go through the grid with two
workers, and, dealt out beforehand, through two processes that know nothing of each other, each with
the same threads. Both begin with processes that have to start and import, so that this counts for
both alike; rounds take turns. Expected: the grid reaches at least 0.9 of the two processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from scanomaly.bench.execution import Task, execute
from scanomaly.bench.grid import run_grid
from scanomaly.bench.jobs import Contents, Job, runs_folder
from scanomaly.bench.local_pool import THREAD_VARIABLES, LocalPool
from scanomaly.data.phantom import STYLES, write_style
from scanomaly.presets import preset

STYLE = STYLES["ct"]
WORKERS = 2
EXPECTED = 0.9
PATIENTS, SLICES, SHOTS = 30, 4, 2
OPTIONS = (f"data.shots={SHOTS}", "data.support=seed:0", "fit.epochs=2")
QUICK = {"jobs": 1, "rounds": 1}


def make_tasks(work: Path, name: str, number: int) -> list[Task]:
    """New jobs, none of them begun."""
    shutil.rmtree(work / name, ignore_errors=True)
    tasks = []
    for seed in range(number):
        run = preset("mvfa-offline-few").with_overrides([*OPTIONS, f"fit.seed={seed}"])
        job = Job.of(run, STYLE.name, "honest", Contents("benchmark"))
        folder = runs_folder(work / name, job.digest)
        job.save(folder)
        tasks.append(Task(job.digest, folder, work / "data", f"seed {seed}", "cpu"))
    return tasks


def grid(tasks: Sequence[Task], threads: int) -> None:
    _require_all(tasks, lambda: run_grid(tasks, lambda _: LocalPool(WORKERS, threads)))


def separate(tasks: Sequence[Task], threads: int) -> None:
    """Every second task to each of two processes, which work alone."""
    context = multiprocessing.get_context("spawn")
    shares = [tasks[first::WORKERS] for first in range(WORKERS)]
    processes = [context.Process(target=_alone, args=(share, threads)) for share in shares]

    def run() -> None:
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    _require_all(tasks, run)


def _alone(tasks: Sequence[Task], threads: int) -> None:
    """Without a grid: one job after the other. Threads count as long as torch is not imported."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    for task in tasks:
        execute(task)


def _require_all(tasks: Sequence[Task], run: Callable[[], object]) -> None:
    run()
    missing = [task.words for task in tasks if not (task.folder / "result.json").is_file()]
    if missing:
        sys.exit(f"not computed: {', '.join(missing)}; see failure.json and job.log")


WAYS: dict[str, Callable[[Sequence[Task], int], None]] = {"grid": grid, "separate": separate}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--jobs", type=int, default=8, help="of each worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    place = options.work / "data" / STYLE.name
    if not (place / "phantom.csv").exists():
        write_style(place, STYLE, patients=PATIENTS, seed=0, slices=SLICES)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for round_number in range(options.rounds):
        for name, run in WAYS.items():
            tasks = make_tasks(options.work, name, WORKERS * options.jobs)
            started = time.monotonic()
            run(tasks, options.threads)
            rates[name].append(60 * len(tasks) / (time.monotonic() - started))
            print(
                f"round {round_number + 1}, {name}: {rates[name][-1]:.2f} jobs per minute",
                flush=True,
            )
    ratios = [one / other for one, other in zip(rates["grid"], rates["separate"], strict=True)]
    print(f"grid / separate: {median(ratios):.3f} (expected at least {EXPECTED})")


if __name__ == "__main__":
    main()
