"""What tables need, and what of it is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanomaly.bench.needs import needs_of
from scanomaly.bench.sources import SOURCES
from scanomaly.bench.tables import TABLES, table
from scanomaly.bench.tables.table import JUDGES

OPENAI = "ViT-L-14-336/openai"


def here(*names: str):
    return lambda name: Path(name) if name in names else None


def test_weights_of_every_row_and_what_is_ready():
    needs = needs_of(table("qfae-table4"), here())
    assert {"vit_base_patch8_224.dino", "vit_base_patch16_224.mae"} < set(needs.weights)
    assert (needs.ready, needs.numbers) == (0, 9)
    some = needs_of(
        table("qfae-table4"), here("vit_large_patch16_224.mae", "vit_base_patch8_224.dino")
    )
    assert some.ready == 2  # DINO B/8, MAE L/16
    assert not some.runs_offline


def test_ours_needs_nothing_that_has_to_be_had():
    needs = needs_of(table("offline"), here("tiny-clip/phantom", "tf_efficientnet_lite0.in1k"))
    assert needs.simulated
    assert needs.runs_offline
    assert not needs_of(table("offline"), here("tiny-clip/phantom")).runs_offline


def test_weights_alone_do_not_make_a_table_run_offline():
    needs = needs_of(table("mvfa-table7"), here(OPENAI))
    assert needs.weights == (OPENAI,)
    assert needs.ready == needs.numbers == 36
    assert not needs.runs_offline


def test_printed_rows_need_nothing():
    needs = needs_of(table("mvfa-table1"), here(OPENAI))
    assert (needs.ready, needs.numbers) == (18, 27)  # WinCLIP has another CLIP


def test_judges_are_weights_too():
    needs = needs_of(table("kqf-nli"), here())
    assert set(JUDGES.values()) < set(needs.weights)


def test_judges_are_those_of_the_evaluation():
    from scanomaly.vqa.nli import MODELS

    assert dict(JUDGES) == dict(MODELS)


@pytest.mark.parametrize("name", TABLES)
def test_every_data_set_has_a_source(name: str):
    assert set(table(name).datasets) <= SOURCES.keys()
