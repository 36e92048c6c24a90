"""A small table and made-up results of it, in a bench folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scanomaly.bench.jobs import Plan, PlannedCell, runs_folder
from scanomaly.bench.results import JobResult, write_result
from scanomaly.bench.tables import Cell, Table, TableRow
from scanomaly.metrics import Estimate, Stratum
from scanomaly.metrics.detection import auroc

COLUMNS = ("Brain image", "Brain pixel", "Chest image")
IMAGES, PATIENTS = 40, 10


def cells(preset: str | None, published: Sequence[float | None]) -> dict[str, Cell]:
    metrics = ("image.auroc", "pixel.auroc", "image.auroc")
    datasets = ("Brain", "Brain", "Chest")
    return {
        column: Cell(preset, dataset, metric, value)
        for column, dataset, metric, value in zip(
            COLUMNS, datasets, metrics, published, strict=True
        )
    }


def small_table(**changes: object) -> Table:
    values = {
        "name": "small",
        "title": "A small table",
        "source": "a paper",
        "columns": COLUMNS,
        "rows": (
            TableRow("good", cells("mvfa-few", (90.0, 95.0, 80.0))),
            TableRow("poor", cells("iqe-few", (70.0, None, 60.5))),
        ),
        "seeds": (1, 2),
        "gpu_hours": 1.0,
        "notes": ("a note of the table",),
        "compare": (("good", "poor"),),
    }
    return Table(**{**values, **changes})


def made_result(
    dataset: str, seed: int, strength: float, protocol: str = "honest", ids: Sequence[str] = ()
) -> JobResult:
    """strength: how far abnormal scores lie above normal ones, in standard deviations."""
    rng = np.random.default_rng(seed)
    labels = np.arange(IMAGES) % 2 == 1
    scores = rng.normal(size=IMAGES) + strength * labels
    value = auroc(scores, labels)
    image = Estimate(value, max(0.0, value - 0.05), min(1.0, value + 0.04), repeats=1000)
    pixel = Estimate(0.9) if dataset == "Brain" else Estimate.undefined("no masks")
    metrics = {"image.auroc": image, "pixel.auroc": pixel}
    sized = {"0-2.5": Stratum(0, {}), "2.5-5": Stratum(7, {"auroc": Estimate(value - 0.1)})}
    return JobResult(
        experiment={"preset": "made"},
        dataset=dataset,
        protocol=protocol,
        seed=seed,
        metrics=metrics,
        honest={"image.auroc": Estimate(value - 0.02)} if protocol == "paper" else {},
        ids=tuple(ids) or tuple(f"{dataset}-{index:03}" for index in range(IMAGES)),
        patients=tuple(f"p{index % PATIENTS}" for index in range(IMAGES)),
        labels=tuple(bool(label) for label in labels),
        scores=tuple(float(score) for score in scores),
        by_size=sized if dataset == "Brain" else {},
        by_kind={"cyst": sized["2.5-5"]} if dataset == "Brain" else {},
        seconds=1800.0,
        weights=("ViT-L-14-336/openai: MIT",),
        notes=(f"a note about {dataset}",),
    )


Place = tuple[str, str, int, str]
"""Row, column, seed, protocol."""


def write_bench(out: Path, table: Table, results: Mapping[Place, JobResult | str | None]) -> None:
    """A plan and its results. A text: nothing is planned because of it. None: not finished."""
    planned = []
    for number, ((row, column, seed, protocol), result) in enumerate(results.items()):
        digest = None if isinstance(result, str) else f"digest-{number}"
        missing = (result,) if isinstance(result, str) else ()
        data = f"patients of seed {seed}" if table.own_patients else "the same for all"
        planned.append(PlannedCell(row, column, seed, protocol, digest, missing, data))
        if digest is not None:
            folder = runs_folder(out, digest)
            folder.mkdir(parents=True)
            if isinstance(result, JobResult):
                write_result(result, folder)
    Plan(table.name, (), tuple(planned)).save(out)


STRENGTHS = {"good": 2.5, "poor": 0.3}


def full_results(protocols: Sequence[str] = ("honest",)) -> dict[Place, JobResult | str | None]:
    """Every number of the small table, under these protocols."""
    return {
        (row, column, seed, protocol): made_result(
            column.split()[0], seed, strength + 0.2 * (protocol == "paper"), protocol
        )
        for row, strength in STRENGTHS.items()
        for column in COLUMNS
        for seed in (1, 2)
        for protocol in protocols
    }
