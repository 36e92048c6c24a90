"""Results of jobs, written and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.made_results import made_result
from scanomaly.bench.results import (
    DRAWS_FILE,
    RESULT_FILE,
    RESULT_FORMAT,
    has_result,
    read_result,
    write_result,
)
from scanomaly.errors import CheckpointError
from scanomaly.metrics import Estimate

RESULT = replace(
    made_result("Brain", 3, 1.0),
    honest={"image.auroc": Estimate(0.5, 0.4, 0.6, repeats=1000, dropped=3)},
    weights=("dino: Apache-2.0",),
    notes=("a note",),
)


def test_everything_comes_back(tmp_path: Path):
    assert not has_result(tmp_path)
    assert read_result(tmp_path) is None
    write_result(RESULT, tmp_path)
    assert has_result(tmp_path)
    assert read_result(tmp_path) == RESULT


def test_draws_come_back_where_scores_do_not_tell_them(tmp_path: Path):
    draws = np.array([0.5, np.nan, 0.25])
    metrics = {
        name: Estimate(0.4, draws=draws) for name in ("image.auroc", "pixel.ap", "open.bleu_4")
    }
    write_result(replace(RESULT, metrics={**metrics, "pixel.auroc": Estimate(0.4)}), tmp_path)
    found = read_result(tmp_path)
    assert found is not None
    for name in ("pixel.ap", "open.bleu_4"):
        np.testing.assert_array_equal(found.with_draws(name).draws, draws)
    for name in ("image.auroc", "pixel.auroc", "nli.bart.entailment"):
        assert found.with_draws(name).draws is None
    missing = replace(RESULT, folder=tmp_path).with_draws("pixel.auroc")
    assert missing.why is None, "it never had an interval"
    assert "no draws were kept; remove the runs' result.json" in (
        replace(found, metrics={"pixel.auroc": Estimate(0.4, 0.3, 0.5)})
        .with_draws("pixel.auroc")
        .why
        or ""
    )


@pytest.mark.parametrize("damage", [b"", b"PK no archive", b"\x93NUMPY", "half", "turned"])
def test_damaged_draws_are_refused(tmp_path: Path, damage: bytes | str):
    drawn = Estimate(0.4, draws=np.random.default_rng(0).random(1000))
    write_result(replace(RESULT, metrics={"pixel.ap": drawn}), tmp_path)
    file = tmp_path / DRAWS_FILE
    whole = file.read_bytes()
    middle = len(whole) // 2
    broken = {"half": whole[:middle], "turned": whole[:middle] + b"????" + whole[middle + 4 :]}
    file.write_bytes(damage if isinstance(damage, bytes) else broken[damage])
    found = read_result(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match=r"draws\.npz is damaged .*run the table again"):
        found.with_draws("pixel.ap")


def test_other_formats_are_no_result(tmp_path: Path):
    values = json.loads(write_result(RESULT, tmp_path).read_text())
    (tmp_path / RESULT_FILE).write_text(json.dumps({**values, "format": RESULT_FORMAT + 1}))
    assert read_result(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}'])
def test_a_damaged_result_is_refused(tmp_path: Path, text: str):
    (tmp_path / RESULT_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"is damaged .*remove .* and run the table again"):
        read_result(tmp_path)
