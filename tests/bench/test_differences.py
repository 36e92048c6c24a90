"""Rows against each other on the same images, and what stands in the way of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.made_results import IMAGES, full_results, made_result, small_table, write_bench
from scanomaly.bench.comparison import read_results
from scanomaly.bench.differences import Differences
from scanomaly.bench.results import JobResult
from scanomaly.bench.tables import Cell, TableRow
from scanomaly.errors import ConfigError
from scanomaly.metrics import Estimate, mean_estimates, open_metrics


def lines(out, results, pairs=(("good", "poor"),), table=None):
    table = table or small_table()
    write_bench(out, table, results)
    return Differences(read_results(out, table)).of(pairs)


def test_every_column_and_their_mean(tmp_path):
    found = lines(tmp_path, full_results())
    assert [line.column for line in found] == [
        *("Brain image", "Brain pixel", "Chest image", "mean of 2 columns, image.auroc"),
    ]
    brain, pixel, chest, mean = found
    expected = [
        made_result("Brain", seed, 2.5).metrics["image.auroc"].value
        - made_result("Brain", seed, 0.3).metrics["image.auroc"].value
        for seed in (1, 2)
    ]
    assert brain.difference.estimate.value == pytest.approx(sum(expected) / 2)
    assert brain.difference.is_clear
    assert brain.difference.p < 0.05
    assert not brain.within_noise
    assert (brain.seeds, brain.images, brain.note) == ((1, 2), IMAGES, "")
    assert pixel.difference.estimate.value == 0
    assert "no interval" in pixel.difference.estimate.why
    assert not pixel.within_noise
    assert mean.difference.estimate.value == pytest.approx(
        (brain.difference.estimate.value + chest.difference.estimate.value) / 2
    )


def test_a_pair_that_hardly_differs_is_noise(tmp_path):
    results = {
        (row, "Brain image", 1, "honest"): made_result("Brain", 1, strength)
        for row, strength in (("good", 1.0), ("poor", 0.98))
    }
    (line,) = lines(tmp_path, results)
    assert line.within_noise


def test_only_common_images_seeds_and_protocols(tmp_path):
    results = full_results(("honest", "paper"))
    del results["poor", "Brain image", 1, "paper"]
    one = results["good", "Brain image", 2, "paper"]
    results["good", "Brain image", 2, "paper"] = replace(
        one, **{name: getattr(one, name)[6:] for name in ("ids", "patients", "labels", "scores")}
    )
    line = lines(tmp_path, results)[0]
    assert line.seeds == (2,)
    assert line.images == IMAGES - 6
    assert "6 are left out" in line.note


def test_seeds_of_the_same_patients_are_drawn_alike_though_each_left_out_others(tmp_path):
    """QFAE's published protocol drops other images under each seed: that is no new evidence."""
    rng = np.random.default_rng(8)
    labels = np.arange(200) % 2 == 1
    scores = rng.normal(size=200) + labels
    names = tuple(f"image-{index}" for index in range(200))

    def result(seed: int, scores, lost: int) -> JobResult:
        kept = [index for index in range(200) if index // 3 != lost]
        return replace(
            made_result("Brain", seed, 1.0),
            ids=tuple(names[index] for index in kept),
            patients=(None,) * len(kept),
            labels=tuple(bool(labels[index]) for index in kept),
            scores=tuple(float(scores[index]) for index in kept),
        )

    def width(folder: str, seeds: range, lost: int) -> float:
        results = {
            (row, "Brain image", seed, "honest"): result(seed, own, lost * seed)
            for row, own in (("good", scores), ("poor", rng.normal(size=200)))
            for seed in seeds
        }
        (line,) = lines(tmp_path / folder, results)
        assert line.images == (200 - 3 * len(seeds) if lost else 197)
        return line.difference.estimate.high - line.difference.estimate.low

    alike = width("alike", range(1, 6), 0)
    assert width("others", range(1, 6), 1) / alike == pytest.approx(1, abs=0.25)


def test_order_of_images_does_not_matter(tmp_path):
    plain = {
        ("good", "Brain image", 1, "honest"): made_result("Brain", 1, 1.5),
        ("poor", "Brain image", 1, "honest"): made_result("Brain", 1, 0.5),
    }
    one = plain["good", "Brain image", 1, "honest"]
    turned = replace(
        one, **{name: getattr(one, name)[::-1] for name in ("ids", "patients", "labels", "scores")}
    )
    (straight,) = lines(tmp_path / "a", plain)
    (other,) = lines(tmp_path / "b", {**plain, ("good", "Brain image", 1, "honest"): turned})
    assert straight.difference == other.difference


def drawn(value: float, draws: np.ndarray) -> Estimate:
    return Estimate(value, *np.nanquantile(draws, (0.025, 0.975)), repeats=len(draws), draws=draws)


def with_pixels(seed: int, value: float, draws: np.ndarray) -> JobResult:
    one = made_result("Brain", seed, 1.0)
    return replace(one, metrics={**one.metrics, "pixel.auroc": drawn(value, draws)})


def pixel_line(out, first, second):
    sides = {"good": first, "poor": second}
    results = {(row, "Brain pixel", 1, "honest"): result for row, result in sides.items()}
    (line,) = lines(out, results)
    return line.difference


DRAWS = np.random.default_rng(5).normal(0.8, 0.05, 1000)
"""What other patients would change of both rows alike."""


def test_metrics_over_pixels_are_subtracted_draw_by_draw(tmp_path):
    apart = np.random.default_rng(6).normal(0, 0.001, len(DRAWS))
    better = with_pixels(1, 0.82, DRAWS + 0.02 + apart)
    found = pixel_line(tmp_path / "a", better, with_pixels(1, 0.8, DRAWS))
    assert found.estimate.value == pytest.approx(0.02)
    assert found.is_clear, "though the two intervals overlap"
    assert found.estimate.low == pytest.approx(0.018, abs=5e-4)
    assert found.estimate.high == pytest.approx(0.022, abs=5e-4)
    assert found.p < 0.01
    undrawn = DRAWS.copy()
    undrawn[:100] = np.nan
    found = pixel_line(tmp_path / "b", better, with_pixels(1, 0.8, undrawn))
    assert found.estimate.dropped == 100


def test_draws_of_other_items_are_not_subtracted(tmp_path):
    whole = with_pixels(1, 0.8, DRAWS)
    columns = ("ids", "patients", "labels", "scores")
    part = replace(whole, **{name: getattr(whole, name)[6:] for name in columns})
    undrawn = replace(whole, metrics={**whole.metrics, "pixel.auroc": Estimate(0.8)})
    for name, other, why in (
        ("part", part, "not on the same items"),
        ("undrawn", undrawn, "its bootstrap draws were not kept"),
    ):
        found = pixel_line(tmp_path / name, whole, other)
        assert found.estimate.value == 0
        assert found.estimate.why.startswith(f"no interval: {why}")


def test_seeds_of_other_patients_are_drawn_independently(tmp_path):
    """The mean of two seeds varies less than each, unless their patients are the same."""
    table = small_table(own_patients=True)
    results = {
        (row, "Brain pixel", seed, "honest"): with_pixels(seed, value, draws)
        for row, value, draws in (("good", 0.8, DRAWS), ("poor", 0.0, np.zeros(1000)))
        for seed in (1, 2)
    }

    def width(found) -> float:
        (line,) = found
        return line.difference.estimate.high - line.difference.estimate.low

    given = replace(table, own_patients=False)
    write_bench(tmp_path / "given", given, results)
    read = read_results(tmp_path / "given", table)
    assert not read.own_patients, "every seed was run on the same data"
    assert width(Differences(read).of(table.compare)) == pytest.approx(
        width(lines(tmp_path / "same", results))
    )
    same = width(lines(tmp_path / "same again", results))
    others = width(lines(tmp_path / "others", results, table=table))
    assert others / same == pytest.approx(0.5**0.5, abs=0.05)


def test_metrics_of_answers_each_have_a_line(tmp_path):
    cells = {
        "ACC": Cell("a", "MI-VQA", "closed.accuracy"),
        "BLEU": Cell("a", "MI-VQA", "open.bleu_4"),
    }
    table = small_table(
        columns=("ACC", "BLEU"),
        rows=(TableRow("good", cells), TableRow("poor", cells)),
    )
    groups = [f"p{index // 3}" for index in range(60)]

    def answers(right: int) -> JobResult:
        truth = "Yes, there is a spot."
        said = [truth if index < right else "No." for index in range(60)]
        truths = [truth] * 60
        metrics = {
            "closed.accuracy": mean_estimates({"": [one == truth for one in said]}, groups)[""],
            "open.bleu_4": open_metrics(said, truths, groups)["bleu_4"],
        }
        return replace(made_result("Brain", 1, 1.0), metrics=metrics)

    results = {
        (row, column, 1, "honest"): answers(right)
        for row, right in (("good", 54), ("poor", 12))
        for column in cells
    }
    accuracy, bleu = lines(tmp_path, results, table=table)
    assert accuracy.difference.estimate.value == pytest.approx(0.7)
    assert accuracy.difference.is_clear
    assert bleu.difference.is_clear


def test_rows_without_common_runs_have_no_line(tmp_path):
    results = full_results()
    for seed in (1, 2):
        for column in ("Brain image", "Brain pixel", "Chest image"):
            del results["poor", column, seed, "honest"]
    assert lines(tmp_path, results) == []


def test_an_unknown_row_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="small has no row 'best'; there are good; poor"):
        lines(tmp_path, full_results(), pairs=(("good", "best"),))
