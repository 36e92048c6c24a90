"""Lesion sizes and single images that are missed."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from bench.made_results import full_results, made_result, small_table, write_bench
from scanomaly.bench.breakdown import WORST, size_lines, worst_misses
from scanomaly.bench.comparison import read_results


def test_sizes_are_averaged_over_seeds(tmp_path):
    write_bench(tmp_path, small_table(), full_results())
    lines = size_lines(read_results(tmp_path, small_table()))
    assert [(line.row, line.dataset) for line in lines] == [("good", "Brain"), ("poor", "Brain")]
    (positives, metrics) = lines[0].strata["2.5-5"]
    own = [made_result("Brain", seed, 2.5).metrics["image.auroc"].value - 0.1 for seed in (1, 2)]
    assert positives == 7
    assert metrics["auroc"] == pytest.approx(fmean(own))
    assert metrics["sensitivity_at_95_specificity"] is None
    assert "0-2.5" not in lines[0].strata  # no lesion of that size


def test_the_worst_misses_come_first(tmp_path):
    one = made_result("Brain", 1, 5.0)
    scores = list(one.scores)
    scores[3], scores[5], scores[7] = -10.0, sorted(s for s in scores[::2])[10], 50.0
    result = replace(one, scores=tuple(scores))
    write_bench(tmp_path, small_table(), {("good", "Brain image", 1, "honest"): result})
    first, second, *rest = worst_misses(read_results(tmp_path, small_table()))
    assert (first.id, first.above, first.score) == ("Brain-003", 1.0, -10.0)
    assert (second.id, second.patient, second.above) == ("Brain-005", "p5", 0.5)
    assert len(rest) <= WORST - 2
    assert all(miss.id != "Brain-007" for miss in (first, second, *rest))


def test_an_image_is_told_once_though_two_seeds_miss_it(tmp_path):
    results = {}
    for seed, low in ((1, -10.0), (2, 0.0)):
        one = made_result("Brain", seed, 8.0)
        results["good", "Brain image", seed, "honest"] = replace(
            one, scores=(*one.scores[:3], low, *one.scores[4:])
        )
    write_bench(tmp_path, small_table(), results)
    (miss,) = worst_misses(read_results(tmp_path, small_table()))
    assert (miss.id, miss.seed, miss.above) == ("Brain-003", 1, 1.0)


def test_answers_and_one_class_have_no_misses(tmp_path):
    one = made_result("Brain", 1, 1.0)
    results = {
        ("good", "Brain image", 1, "honest"): replace(one, labels=(None,) * len(one.ids)),
        ("poor", "Brain image", 1, "honest"): replace(one, labels=(True,) * len(one.ids)),
    }
    write_bench(tmp_path, small_table(), results)
    assert worst_misses(read_results(tmp_path, small_table())) == []
