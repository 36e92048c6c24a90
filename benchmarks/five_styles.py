"""MVFA and IQE-CLIP offline, few-shot and zero-shot, on five styles of simulated images.

    python benchmarks/five_styles.py WORK [--seeds 0 1 2] [--patients 120] [--workers 2]
    python benchmarks/five_styles.py WORK --quick        # one seed, one epoch: does it run?

For each seed: `scanomaly phantom WORK/phantom-SEED --styles all --slices 4`. On each style: both
methods from K normal and K abnormal images; a frozen CLIP that is only asked, by the prompt
ensemble; PatchCore on that CLIP's features of the same levels, with the same K normal images; both
methods trained on the other four styles. Test images are seen by `evaluate` alone. Run folders and
results are kept in WORK: the same command goes on after an interruption, and a finished one only
prints its tables.

--tuning scores validation patients instead, half of them; the other half teaches, and test patients
are not there at all. Settings (--set) are chosen that way, on seeds that the tables do not use.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from baselines import PatchCore, PromptedClip
from five_styles_tables import Result, read_result, tables, write_result
from scanomaly.backbones.clip import build_clip
from scanomaly.config.data import InputSpec
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.config.run import Run
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.manifest import read_manifest
from scanomaly.data.phantom import STYLES, write_styles
from scanomaly.data.splits import few_shot
from scanomaly.evaluation import evaluate
from scanomaly.files import write_text
from scanomaly.fitting import fit, read_training_data
from scanomaly.inference import FittedDetector, load
from scanomaly.presets import preset

SETS = tuple(style.name for style in STYLES.values())
TABLE = "phantom.csv"
FINISHED = "calibration.json"
SLICES = 4
"""Of each patient: more patients tell more than more slices of the same ones."""
MEMORY = 20_000
QUICK = {"seeds": [0], "patients": 30, "options": ["fit.epochs=1"]}


@dataclass(frozen=True, slots=True)
class Job:
    """One method on one data set. data: its folder of sets; options: as of `--set`."""

    work: Path
    data: Path
    seed: int
    dataset: str
    method: str
    options: tuple[str, ...]

    def few_shot(self, name: str) -> Run:
        own = [f"fit.seed={self.seed}", f"data.support=seed:{self.seed}"]
        return preset(name).with_overrides([*own, *self.options])

    def zero_shot(self, name: str) -> Run:
        own = [f"fit.seed={self.seed}", f"data.target={self.dataset}"]
        return preset(name).with_overrides([*own, *self.options])

    def place(self, kind: str, run: Run) -> Path:
        """A path of this job and these options alone."""
        digest = hashlib.blake2b(run.model_dump_json().encode(), digest_size=4).hexdigest()
        return self.work / kind / f"{self.data.name}-{self.dataset}-{self.method}-{digest}"


Make = Callable[[Job, Run], FittedDetector]


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the tables: its name there, its run, and how the run becomes a detector."""

    title: str
    run: Callable[[Job], Run]
    make: Make


def fitted(job: Job, run: Run) -> FittedDetector:
    """As `scanomaly fit`; a finished run folder is read, an unfinished one goes on."""
    folder = job.place("runs", run)
    if not (folder / FINISHED).exists():
        fit(run, read_training_data(run, job.data, job.dataset), folder, resume=folder.exists())
    return load(folder)


def prompted_clip(job: Job, run: Run) -> FittedDetector:
    config = _config(job, run)
    return FittedDetector(run, PromptedClip(config, _spec(config)))


def patchcore(copies: str) -> Make:
    """copies: what each of the K normal images becomes; "none" is the image alone."""

    def make(job: Job, run: Run) -> FittedDetector:
        config, shots = _config(job, run), run.data.shots
        assert shots is not None  # a few-shot run
        support = few_shot(read_manifest(job.data, job.dataset), shots, run.data.support)
        images = ImageDataset(
            support.normals(), _spec(config), run.data, with_masks=False, copies=copies
        )
        core = PatchCore(build_clip(config.backbone).vision, config.blocks, _spec(config))
        core.remember((images[i].image[None] for i in range(len(images))), MEMORY, job.seed)
        return FittedDetector(run, core)

    return make


def _config(job: Job, run: Run) -> MVFAConfig:
    config = run.config.for_dataset(job.dataset)
    assert isinstance(config, MVFAConfig)
    return config


def _spec(config: MVFAConfig) -> InputSpec:
    return InputSpec(side=config.side, interpolation="bicubic", library="pillow")


def _like_mvfa(job: Job) -> Run:
    return job.few_shot("mvfa-offline-few")


CONTENDERS: Mapping[str, Contender] = {
    "mvfa-few": Contender("MVFA, few-shot", _like_mvfa, fitted),
    "iqe-few": Contender("IQE-CLIP, few-shot", lambda job: job.few_shot("iqe-offline-few"), fitted),
    "clip": Contender("frozen CLIP, prompts alone", _like_mvfa, prompted_clip),
    "patchcore": Contender("PatchCore, K normal images", _like_mvfa, patchcore("none")),
    "patchcore-copies": Contender("PatchCore, and copies", _like_mvfa, patchcore("mvfa")),
    "mvfa-zero": Contender(
        "MVFA, zero-shot", lambda job: job.zero_shot("mvfa-offline-zero"), fitted
    ),
    "iqe-zero": Contender(
        "IQE-CLIP, zero-shot", lambda job: job.zero_shot("iqe-offline-zero"), fitted
    ),
}


def result_of(job: Job) -> tuple[Result, float]:
    """What `evaluate` finds, kept in a file; and the seconds that it took just now."""
    started, contender = time.monotonic(), CONTENDERS[job.method]
    run = contender.run(job)
    file = job.place("results", run).with_suffix(".json")
    result = read_result(file)
    if result is None:
        evaluation = evaluate(contender.make(job, run), read_manifest(job.data, job.dataset))
        result = Result.of(evaluation)
        write_result(result, file)
    return result, time.monotonic() - started


def simulate(folder: Path, patients: int, seed: int) -> Path:
    write_styles(folder, ("all",), patients=patients, seed=seed, slices=SLICES)
    return folder


def tuning_sets(data: Path) -> Path:
    """Beside `data`: the same sets, where every second validation patient takes the test's place.

    Patients come with the diseased first, so both halves have both kinds.
    """
    out = data.with_name(f"tuning-{data.name}")
    for name in SETS:
        with (data / name / TABLE).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] != "test"]
        valid = list(dict.fromkeys(row["patient"] for row in rows if row["split"] == "valid"))
        for row in rows:
            if row["patient"] in valid[1::2]:
                row["split"] = "test"
            for column in ("path", "mask"):
                row[column] = str((data / name / row[column]).resolve()) if row[column] else ""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_text(out / name / TABLE, text.getvalue())
    return out


def finished(pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
    """Results in the order in which they come; progress goes to stderr."""
    started = time.monotonic()
    waiting = {pool.submit(result_of, job): job for job in jobs}
    for done, future in enumerate(as_completed(waiting), start=1):
        job, (result, seconds) = waiting[future], future.result()
        left = (time.monotonic() - started) / done * (len(jobs) - done)
        tell(
            f"{done}/{len(jobs)} {job.dataset}, seed {job.seed}, {job.method}: image AUROC "
            f"{result.auroc:.3f}; {seconds:.0f} s, {left / 60:.0f} min left"
        )
        yield job, result


def tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def begin(threads: int) -> None:
    """In every process: its share of the cores, and no word about small supports in each fit."""
    torch.set_num_threads(threads)
    logging.getLogger("scanomaly").setLevel(logging.ERROR)


def benchmark(options: argparse.Namespace) -> dict[str, dict[tuple[str, int], Result]]:
    """Method -> (data set, seed) -> result."""
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context, begin, (threads,)) as pool:
        tell(f"simulating {options.patients} patients of each style for each seed")
        places = [options.work / f"phantom-{seed}" for seed in options.seeds]
        count = [options.patients] * len(places)
        data = list(pool.map(simulate, places, count, options.seeds))
        if options.tuning:
            data = [tuning_sets(folder) for folder in data]
        jobs = [
            Job(options.work, folder, seed, name, method, tuple(options.options))
            for folder, seed in zip(data, options.seeds, strict=True)
            for name in options.sets
            for method in options.methods
        ]
        found: dict[str, dict[tuple[str, int], Result]] = {name: {} for name in options.methods}
        for job, result in finished(pool, jobs):
            found[job.method][job.dataset, job.seed] = result
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=120, help="of each style and seed")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--set", dest="options", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--tuning", action="store_true", help="score validation patients")
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    started = time.monotonic()
    found = benchmark(options)
    titles = {name: CONTENDERS[name].title for name in found}
    for text in tables(found, titles, options.sets):
        print(text, flush=True)
    tell(f"{(time.monotonic() - started) / 60:.1f} min in all")


if __name__ == "__main__":
    main()
