"""Rows against each other on the same images, and what stands in the way of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.made_results import IMAGES, full_results, made_result, small_table, write_bench
from scanomaly.bench.comparison import read_results
from scanomaly.bench.differences import RIGHT, Differences
from scanomaly.bench.tables import Cell, TableRow
from scanomaly.errors import ConfigError


def lines(out, results, pairs=(("good", "poor"),), table=None):
    table = table or small_table()
    write_bench(out, table, results)
    return Differences(read_results(out, table)).of(pairs)


def test_every_column_and_their_mean(tmp_path):
    found = lines(tmp_path, full_results())
    assert [line.column for line in found] == [
        *("Brain image", "Brain pixel", "Chest image", "mean of 2 columns"),
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


def test_answers_are_paired_by_right_and_wrong(tmp_path):
    cells = {
        "ACC": Cell("a", "MI-VQA", "closed.accuracy"),
        "F1": Cell("a", "MI-VQA", "closed.f1"),
    }
    table = small_table(
        columns=("ACC", "F1"),
        rows=(TableRow("good", cells), TableRow("poor", cells)),
    )

    def answers(right: int):
        one = made_result("Brain", 1, 1.0)
        scores = tuple(float(index < right) for index in range(IMAGES))
        return replace(one, labels=(None,) * IMAGES, scores=scores)

    results = {
        (row, column, 1, "honest"): answers(right)
        for row, right in (("good", 36), ("poor", 8))
        for column in cells
    }
    (line,) = lines(tmp_path, results, table=table)
    assert (line.metric, line.column) == (RIGHT, "closed questions")
    assert line.difference.estimate.value == pytest.approx(0.7)
    assert line.difference.is_clear


def test_rows_without_common_runs_have_no_line(tmp_path):
    results = full_results()
    for seed in (1, 2):
        for column in ("Brain image", "Brain pixel", "Chest image"):
            del results["poor", column, seed, "honest"]
    assert lines(tmp_path, results) == []


def test_an_unknown_row_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="small has no row 'best'; there are good; poor"):
        lines(tmp_path, full_results(), pairs=(("good", "best"),))
