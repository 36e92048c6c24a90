"""Ours beside published numbers, honest beside published protocols, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest

from bench.made_results import cells as made_cells
from bench.made_results import full_results, made_result, small_table, write_bench
from scanomaly.bench.comparison import (
    compare,
    interval_of_mean,
    licences,
    read_results,
    row_means,
    run_notes,
)
from scanomaly.bench.execution import FAILURE_FILE
from scanomaly.bench.jobs import runs_folder
from scanomaly.bench.tables import Cell, TableRow
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.metrics import Estimate


def compared(out: Path, results, **changes):
    table = small_table(**changes)
    write_bench(out, table, results)
    found = read_results(out, table)
    return found, {(cell.row, cell.column): cell for cell in compare(found)}


def value(seed: int, strength: float, name: str = "image.auroc") -> float:
    return 100 * (made_result("Brain", seed, strength).metrics[name].value or 0)


def test_seeds_become_mean_and_deviation(tmp_path):
    _, cells = compared(tmp_path, full_results())
    cell = cells["good", "Brain image"]
    both = [value(1, 2.5), value(2, 2.5)]
    assert cell.ours.mean == pytest.approx(fmean(both))
    assert cell.ours.std == pytest.approx(stdev(both))
    assert cell.ours.low == pytest.approx(fmean(both) - 5)  # of the same patients
    assert cell.ours.seeds == (1, 2)
    assert cell.difference == pytest.approx(fmean(both) - 90)
    assert (cell.protocol, cell.gap, cell.missing) == ("honest", None, ())
    assert cell.honest == cell.ours
    assert cells["poor", "Brain pixel"].difference is None  # nothing is published


def test_one_seed_keeps_its_interval(tmp_path):
    results = {place: one for place, one in full_results().items() if place[2] == 1}
    _, cells = compared(tmp_path, results)
    ours = cells["good", "Brain image"].ours
    assert ours.std is None
    assert ours.low == pytest.approx(value(1, 2.5) - 5)


def test_seeds_with_patients_of_their_own_are_surer():
    parts = [(90.0, 87.0, 92.0), (80.0, 76.0, 82.0)]
    assert interval_of_mean(parts, False) == pytest.approx((81.5, 87.0))
    assert interval_of_mean(parts, True) == pytest.approx((82.5, 85 + 2**0.5))


def test_the_published_protocol_stands_beside_the_honest_one(tmp_path):
    _, cells = compared(tmp_path, full_results(("honest", "paper")))
    cell = cells["good", "Brain image"]
    assert cell.protocol == "paper"
    assert cell.ours.mean == pytest.approx(fmean([value(1, 2.7), value(2, 2.7)]))
    assert cell.honest.mean == pytest.approx(fmean([value(1, 2.5), value(2, 2.5)]))
    assert cell.gap == pytest.approx(cell.ours.mean - cell.honest.mean)


def test_a_gap_is_that_of_seeds_that_have_both(tmp_path):
    results = full_results(("honest", "paper"))
    del results["good", "Brain image", 2, "honest"]
    _, cells = compared(tmp_path, results)
    cell = cells["good", "Brain image"]
    assert cell.ours.seeds == (1, 2)
    assert cell.gap == pytest.approx(value(1, 2.7) - value(1, 2.5))


def test_without_honest_runs_the_published_one_is_scored_honestly(tmp_path):
    _, cells = compared(tmp_path, full_results(("paper",)))
    cell = cells["good", "Brain image"]
    assert cell.gap == pytest.approx(2.0)


def test_what_is_missing_says_why(tmp_path):
    results = full_results()
    results["good", "Brain image", 1, "honest"] = "data set Brain: get it there."
    results["good", "Brain image", 2, "honest"] = None
    results["poor", "Chest image", 1, "honest"] = None
    table = small_table(
        rows=(*small_table().rows, TableRow("new", {"Brain image": Cell("a", "Brain", "image.ap")}))
    )
    write_bench(tmp_path, table, results)
    failed = list(results).index(("poor", "Chest image", 1, "honest"))
    folder = runs_folder(tmp_path, f"digest-{failed}")
    (folder / FAILURE_FILE).write_text(json.dumps({"format": 1, "message": "no memory."}))
    cells = {(cell.row, cell.column): cell for cell in compare(read_results(tmp_path, table))}
    missing = cells["good", "Brain image"].missing
    assert missing[0] == "data set Brain: get it there."
    assert missing[1].startswith("not finished; `scanomaly bench run small` goes on")
    assert cells["good", "Brain image"].ours is None
    (failure,) = cells["poor", "Chest image"].missing
    assert failure.startswith(f"failed: no memory; see {folder / FAILURE_FILE}")
    assert cells["poor", "Chest image"].ours.seeds == (2,)
    assert cells["new", "Brain image"].missing[0].startswith("not planned")


def test_undefined_and_unknown_metrics_are_told(tmp_path):
    _, cells = compared(
        tmp_path,
        {
            ("good", "Brain image", 1, "honest"): made_result("Brain", 1, 1.0),
            ("good", "Brain pixel", 1, "honest"): made_result("Chest", 1, 1.0),
        },
        rows=(
            TableRow(
                "good",
                {
                    "Brain image": Cell("a", "Brain", "image.ap"),
                    "Brain pixel": Cell("a", "Brain", "pixel.auroc"),
                },
            ),
        ),
        compare=(),
    )
    assert cells["good", "Brain image"].missing == ("the evaluation has no such metric.",)
    assert cells["good", "Brain pixel"].missing == ("undefined: no masks.",)


def test_means_need_every_column(tmp_path):
    results = full_results()
    del results["poor", "Chest image", 1, "honest"], results["poor", "Chest image", 2, "honest"]
    found, cells = compared(tmp_path, results)
    means = {(mean.row, mean.metric): mean for mean in row_means(found.table, cells.values())}
    assert means.keys() == {("good", "image.auroc")}
    mean = means["good", "image.auroc"]
    assert mean.published == 85
    own = [cells["good", f"{name} image"].ours.mean for name in ("Brain", "Chest")]
    assert mean.ours == pytest.approx(fmean(own))


def test_a_mean_that_the_paper_prints_stands_beside_ours(tmp_path):
    nothing = made_cells("mvfa-few", (None, None, None))
    rows = (
        TableRow("good", nothing, {"image.auroc": 95.0}),
        TableRow("poor", nothing, {"image.auroc": 1.0}),
    )
    found, cells = compared(tmp_path, full_results(), rows=rows)
    good, poor = (one for one in row_means(found.table, cells.values()))
    assert (good.published, poor.published) == (95.0, 1.0)
    assert good.difference == pytest.approx(good.ours - 95.0)
    assert poor.difference == pytest.approx(poor.ours - 1.0)
    assert (good.within_noise, poor.within_noise) == (True, False)


def test_cider_is_not_a_share(tmp_path):
    result = made_result("Brain", 1, 1.0)
    result.metrics["open.cider"] = Estimate(2.84, 2.0, 3.0)
    _, cells = compared(
        tmp_path,
        {("good", "Brain image", 1, "honest"): result},
        rows=(TableRow("good", {"Brain image": Cell("a", "MI-VQA", "open.cider", 2.5)}),),
        compare=(),
    )
    cell = cells["good", "Brain image"]
    assert (cell.ours.mean, cell.ours.low, cell.digits) == (2.84, 2.0, 2)
    assert cell.difference == pytest.approx(0.34)


def test_licences_and_notes_once(tmp_path):
    found, _ = compared(tmp_path, full_results())
    weights, brain, chest = licences(found)
    assert weights == "ViT-L-14-336/openai: MIT"
    assert "BraTS2021" in brain
    assert "RSNA" in chest
    assert run_notes(found) == [
        "a note about Brain (8 of 12 runs)",
        "a note about Chest (4 of 12 runs)",
    ]


def test_no_plan_and_damaged_results(tmp_path):
    with pytest.raises(ConfigError, match=r"expected runs of small.*bench run small"):
        read_results(tmp_path, small_table())
    write_bench(tmp_path, small_table(), full_results())
    (runs_folder(tmp_path, "digest-0") / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_results(tmp_path, small_table())
