"""Every cell of every table names what there is: a preset, fields, a metric."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from scanomaly.bench.tables import TABLES, Cell, Table, TableRow, table
from scanomaly.bench.tables.mvfa import MVTEC_OBJECTS
from scanomaly.bench.tables.table import MASKED, METRICS, MI_VQA, SEED_PLACE, bmad_numbers
from scanomaly.config.run import Run
from scanomaly.config.vqa import VqaRun
from scanomaly.data.bmad import BMAD_SETS
from scanomaly.data.phantom import STYLES
from scanomaly.data.splits import support_list
from scanomaly.errors import ConfigError
from scanomaly.presets import VQA_PRESETS, preset, vqa_preset
from scanomaly.presets.baselines import BASELINE_PRESETS

NAMED_IN_THE_PLAN = {
    *(f"qfae-table{number}" for number in ("1", "2a", "2b", "2c", "2d", "3", "4", "5", "8", "12")),
    *(f"mvfa-table{number}" for number in (1, 2, 3, 4, 5, 7, 11)),
    *(f"iqe-table{number}" for number in (1, 2, 3, 4, 5, 7)),
    *("iqe-alpha", "kqf-table1", "kqf-table2", "kqf-nli", "offline"),
}
STYLE_NAMES = {style.name: style.has_masks for style in STYLES.values()}


@cache
def resolved(name: str, options: tuple[str, ...]) -> Run | VqaRun:
    options = tuple(option.replace(SEED_PLACE, "7") for option in options)
    if name in VQA_PRESETS:
        return vqa_preset(name).with_overrides(options)
    run = preset(name).with_overrides(options)
    run.data.require_complete()
    return run


def problems(table: Table) -> Iterator[str]:
    for label, column, cell in table.experiments():
        try:
            run = resolved(cell.preset, cell.options)
        except ConfigError as error:
            yield f"{label}, {column}: {error}"
            continue
        answers = cell.metric.split(".")[0] in ("closed", "open", "nli", "open_set")
        if cell.metric not in METRICS:
            yield f"{label}, {column}: no metric {cell.metric}"
        elif isinstance(run, VqaRun) != answers or (cell.dataset == MI_VQA) != answers:
            yield f"{label}, {column}: {cell.metric} is not of a {run.kind} on {cell.dataset}"
        elif isinstance(run, Run) and run.data.target not in (None, cell.dataset):
            yield f"{label}, {column}: scored on {cell.dataset}, left out {run.data.target}"


def with_cell(cell: Cell) -> Table:
    row = TableRow("row", {"column": cell})
    return Table("t", "t", "s", ("column",), (row,), seeds=(1,), gpu_hours=1)


def test_the_tables_of_the_plan_are_there():
    assert TABLES.keys() == NAMED_IN_THE_PLAN | {"five-styles", "offline-slow"}
    assert all(make().name == name for name, make in TABLES.items())


@pytest.mark.parametrize("name", TABLES)
def test_no_cell_is_dead(name: str):
    assert not list(problems(table(name)))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (Cell("no-such", "Brain", "image.auroc"), "no preset"),
        (Cell("qfae-brain", "Brain", "image.auroc", None, ("fit.epoch=1",)), "no field"),
        (Cell("qfae-brain", "Brain", "image.area"), "no metric"),
        (Cell("qfae-brain", "Brain", "open.cider"), "not of a detector"),
        (Cell("mvfa-zero", "Brain", "image.auroc", None, ("data.target=Liver",)), "left out Liver"),
        (Cell("mvfa-zero", "Brain", "image.auroc"), "--target"),
    ],
)
def test_a_dead_cell_is_noticed(cell: Cell, said: str):
    (problem,) = problems(with_cell(cell))
    assert said in problem


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_whole(name: str):
    own = table(name)
    labels = [row.label for row in own.rows]
    assert len(set(labels)) == len(labels)
    assert all(row.cells for row in own.rows)
    assert all(set(row.cells) <= set(own.columns) for row in own.rows)
    assert all(first in labels and second in labels for first, second in own.compare)
    assert all(first != second for first, second in own.compare)
    assert own.seeds
    assert own.gpu_hours >= 0
    for _, _, cell in own.cells():
        assert cell.published is None or 0 <= cell.published <= 100
        if cell.metric.startswith("pixel."):
            assert cell.dataset in {*MASKED, *MVTEC_OBJECTS} or STYLE_NAMES[cell.dataset]
    known = {*BMAD_SETS, *STYLE_NAMES, *MVTEC_OBJECTS, MI_VQA}
    assert set(own.datasets) <= known


def test_published_support_lists_exist_for_every_few_shot_cell():
    for make in TABLES.values():
        for _, _, cell in make().experiments():
            run = resolved(cell.preset, cell.options)
            if isinstance(run, Run) and run.data.support == "published" and run.data.shots:
                assert support_list(cell.dataset, run.data.shots)


def test_zero_shot_rows_need_every_set_that_teaches():
    needing = set()
    for name in TABLES:
        own = table(name)
        runs = [resolved(cell.preset, cell.options) for _, _, cell in own.experiments()]
        if any(isinstance(run, Run) and run.data.supervision == "zero_shot" for run in runs):
            needing.add(name)
            assert set(own.datasets) in (set(BMAD_SETS), set(STYLE_NAMES)), name
    assert {"iqe-table1", "iqe-table3", "iqe-table4", "iqe-table5", "iqe-alpha"} < needing


def test_known_numbers():
    def number(name: str, row: str, column: str) -> tuple[float | None, float | None]:
        (cell,) = [cell for r, c, cell in table(name).cells() if (r, c) == (row, column)]
        return cell.published, cell.published_std

    assert number("qfae-table5", "QFAE", "LiverCT") == (65.5, 1.96)
    assert number("qfae-table5", "MKD", "RSNA") == (82.0, 0.12)
    assert number("mvfa-table1", "BGAD", "Liver pixel") == (98.88, None)
    assert number("mvfa-table1", "CLIP", "Retina_OCT2017 image") == (98.59, None)
    assert number("iqe-table1", "AdaCLIP", "Retina_RESC pixel") == (71.15, 15.2)
    assert number("mvfa-table7", "MVFA, K = 8", "Liver pixel") == (99.79, None)
    assert number("iqe-table1", "IQE-CLIP", "Retina_RESC pixel") == (98.35, 0.2)
    assert number("iqe-table5", "full", "few-shot pixel") == (97.14, None)
    assert number("kqf-table1", "ViT, KQF concat", "CIDEr") == (2.84, None)
    assert number("kqf-table2", "channel with", "known ACC") == (91.18, None)


def test_every_baseline_that_works_offline_is_in_a_table():
    ours = [cell for name in ("offline", "offline-slow") for _, _, cell in table(name).cells()]
    offline = {name for name in BASELINE_PRESETS if "offline" in name or "tiny" in name}
    assert offline <= {cell.preset for cell in ours}


def test_rows_that_are_only_printed_have_numbers_and_no_experiment():
    printed = {
        (name, row.label)
        for name in TABLES
        for row in table(name).rows
        if any(cell.preset is None for cell in row.cells.values())
    }
    assert printed == {
        *(("qfae-table5", rival) for rival in ("P-VQ", "MKD")),
        *(("mvfa-table1", rival) for rival in ("CLIP", "DRA", "BGAD", "APRIL-GAN")),
        *(("iqe-table1", rival) for rival in ("VCP-CLIP", "AdaCLIP", "APRIL-GAN")),
    }
    for name in TABLES:
        own = table(name)
        compared = {label for pair in own.compare for label in pair}
        for label, _, cell in own.cells():
            if cell.preset is None:
                assert cell.published is not None
                assert not cell.options
                assert label not in compared


def test_averages_agree_with_the_printed_ones():
    """Of MVFA at K = 4: 88.97 and 98.67."""
    (row,) = [row for row in table("mvfa-table1").rows if row.label == "MVFA"]
    for kind, printed in (("image", 88.97), ("pixel", 98.67)):
        values = [c.published or 0 for name, c in row.cells.items() if name.endswith(kind)]
        assert sum(values) / len(values) == pytest.approx(printed, abs=0.01)


def test_a_number_that_is_printed_twice_is_one_experiment():
    """QFAE's ablations go on from the best row of the one before."""
    runs: dict[float, set[tuple[object, object]]] = {}
    for name in ("2a", "2b", "2c", "2d", "3", "4"):
        for _, _, cell in table(f"qfae-table{name}").experiments():
            run = resolved(cell.preset, cell.options)
            runs.setdefault(cell.published, set()).add((repr(run.config), repr(run.data)))
    by_chance = {94.3}  # DINO alone, and three encoders
    assert {number for number, ours in runs.items() if len(ours) > 1} == by_chance
    assert {88.5, 92.6, 93.0, 94.4} < runs.keys()


def test_means_stand_where_no_more_is_printed():
    levels, objects = table("mvfa-table5"), table("mvfa-table11")
    assert {len(row.means) for row in (*levels.rows[:-1], *objects.rows)} == {2}
    means = {row.label: dict(row.means) for row in levels.rows}
    assert means["level 3 alone"] == {"image.auroc": 81.25, "pixel.auroc": 96.03}
    assert means["all levels, scored at 3"] == {"image.auroc": 84.32, "pixel.auroc": 98.54}
    for own in (levels, objects):
        assert own.has_published
        for row in own.rows:
            assert row.means.keys() <= {cell.metric for cell in row.cells.values()}
    assert not table("offline").has_published


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"no table 'qfae-5'; there are .*qfae-table5"):
        table("qfae-5")


def test_a_number_for_each_set():
    with pytest.raises(ValueError, match="expected a number for each"):
        bmad_numbers(1.0, 2.0)
