"""Offline QFAE against PatchCore on the same frozen features, on simulated patients.

    python benchmarks/offline_quality.py WORK [--seeds 0 1 2] [--patients 200]

For each seed: a phantom data set, `qfae-offline` (with its warm start), the same from scratch, and
`patchcore-offline` at the same image side and at 256 px. Prints a Markdown table of image AUROC, by
lesion diameter, and pixel AP, with patient-level 95 % intervals.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from result_tables import head, interval, line
from scanomaly.config.data import DataConfig, InputSpec
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.data.phantom import write_phantom
from scanomaly.fitting import fit
from scanomaly.inference import load
from scanomaly.metrics import (
    Estimate,
    auroc_by_stratum,
    bin_names,
    bins_of,
    image_metrics,
    pixel_metrics,
)
from scanomaly.presets import preset

SIZES = (4.0, 6.0, 10.0, 15.0, 25.0, 40.0)
SHOWN_SIDE = 160


@dataclass(frozen=True, slots=True)
class Result:
    """Scores (n,) and maps (n, S, S) of the test images of one seed."""

    scores: NDArray[np.float64]
    maps: NDArray[np.float32]


def fitted(name: str, *options: str) -> Callable[[Manifest, Path, int], Result]:
    """A preset; options: as of `--set`."""

    def run(manifest: Manifest, work: Path, seed: int) -> Result:
        folder = work / "-".join(
            [name, *(option.partition("=")[2] for option in options), str(seed)]
        )
        if not (folder / "calibration.json").exists():
            fit(preset(name).with_overrides([f"fit.seed={seed}", *options]), manifest, folder)
        scored = list(load(folder).score_rows(manifest.split("test")))
        maps = [one.geometry.to_input_grid(one.anomaly_map) for one in scored]
        return Result(np.array([one.score for one in scored]), np.stack(maps))

    return run


METHODS: dict[str, Callable[[Manifest, Path, int], Result]] = {
    "PatchCore, 128 px": fitted("patchcore-offline"),
    "PatchCore, 256 px": fitted(
        "patchcore-offline", "config.side=256", "config.model.coreset_ratio=0.0025"
    ),
    "QFAE offline, from scratch": fitted("qfae-offline-from-scratch"),
    "QFAE offline, warm start": fitted("qfae-offline"),
}


def table(work: Path, seeds: list[int], patients: int, names: list[str]) -> Iterator[str]:
    sizes = bin_names(SIZES)
    yield from head(
        ["method", "image AUROC", "10 mm and more", *(f"{s} mm" for s in sizes), "pixel AP"]
    )
    sets = [_phantom(work, seed, patients) for seed in seeds]
    for name in names:
        results = [
            METHODS[name](manifest, work, seed)
            for seed, (manifest, _) in zip(seeds, sets, strict=True)
        ]
        yield _row(name, seeds, sets, results)


def _phantom(work: Path, seed: int, patients: int) -> tuple[Manifest, dict[str, float]]:
    """The data set of a seed, and the lesion diameter (mm) of each abnormal image."""
    folder = work / f"phantom-{seed}"
    if not (folder / "phantom.csv").exists():
        write_phantom(folder, patients=patients, seed=seed)
    with (folder / "phantom.csv").open(newline="") as file:
        diameters = {
            row["id"]: float(row["diameter_mm"])
            for row in csv.DictReader(file)
            if row["diameter_mm"]
        }
    return read_manifest(folder), diameters


def _row(
    name: str,
    seeds: list[int],
    sets: list[tuple[Manifest, dict[str, float]]],
    results: list[Result],
) -> str:
    """All seeds pooled after ranking scores within each seed's own test set."""
    tests = [manifest.split("test") for manifest, _ in sets]
    rows = [row for test in tests for row in test]
    groups = [f"{s}-{row.patient}" for s, test in zip(seeds, tests, strict=True) for row in test]
    labels = [bool(row.label) for row in rows]
    scores = np.concatenate([_ranks(result.scores) for result in results])
    sizes = [
        d.get(row.id, np.nan) for (_, d), test in zip(sets, tests, strict=True) for row in test
    ]
    whole = image_metrics(scores, labels, groups)["auroc"]
    large = ["large" if size >= 10 else None for size in sizes]
    strata = auroc_by_stratum(scores, labels, bins_of(sizes, SIZES), groups, names=bin_names(SIZES))
    over_ten = auroc_by_stratum(scores, labels, large, groups)["large"].metrics["auroc"]
    each = [_pixel_ap(test, result) for test, result in zip(tests, results, strict=True)]
    cells = [_cell(whole), _cell(over_ten), *(_cell(s.metrics["auroc"]) for s in strata.values())]
    pixel = f"{np.mean(each):.3f} ({', '.join(f'{value:.3f}' for value in each)})"
    return line([name, *cells, pixel])


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(scores.argsort().argsort() / len(scores))


def _pixel_ap(test: Manifest, result: Result) -> float:
    spec = InputSpec(side=SHOWN_SIDE)
    images = ImageDataset(test, spec, DataConfig())
    masks: list[Any] = [images[i].mask for i in range(len(images))]
    value = pixel_metrics(result.maps, [m[0].numpy() for m in masks], repeats=2)["ap"].value
    return float("nan") if value is None else value


def _cell(estimate: Estimate) -> str:
    return interval(estimate.value, estimate.low, estimate.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for text in table(options.work, options.seeds, options.patients, options.methods):
        print(text, flush=True)


if __name__ == "__main__":
    main()
