"""Tables to jobs: what is decided, what is shared, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from scanomaly.bench.jobs import Job, load_plan
from scanomaly.bench.planning import Planned, Wanted, experiment_of, plan_table
from scanomaly.bench.tables import Cell, Table, TableRow
from scanomaly.config.run import Run
from scanomaly.config.vqa import VqaRun
from scanomaly.errors import ConfigError, DataError
from scanomaly.presets import PRESETS, VQA_PRESETS, preset, vqa_preset
from tiny_runs import write_set
from vqa.tiny_vqa import write_tiny_corpus

IMAGES = {("train", "good"): 2, ("valid", "good"): 1, ("test", "good"): 1, ("test", "Ungood"): 1}


@pytest.fixture(autouse=True)
def presets_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ "few" and "zero" need no weight file, "heavy" one that is nowhere."""
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path / "no-weights"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-hub"))
    random = ["config.backbone.weights=random"]
    for name, origin in {"few": "mvfa-offline-few", "zero": "mvfa-offline-zero"}.items():
        run = preset(origin).with_overrides(random)
        monkeypatch.setitem(PRESETS, name, lambda run=run: run)
    heavy = preset("mvfa-few").model_copy(update={"preset": "heavy"})
    monkeypatch.setitem(PRESETS, "heavy", lambda: heavy)
    answers = vqa_preset("kqf-concat-vit").with_overrides(
        [f"config.{part}.weights=random" for part in ("visual", "former", "decoder")]
    )
    monkeypatch.setitem(VQA_PRESETS, "answers", lambda: answers)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("Brain", "Liver"):
        write_set(root / name, IMAGES)
    write_tiny_corpus(root / "MI-VQA", {"train": 1, "test": 1})
    return root


def table_of(rows: Mapping[str, Mapping[str, Cell]]) -> Table:
    columns = tuple(dict.fromkeys(column for cells in rows.values() for column in cells))
    made = tuple(TableRow(label, cells) for label, cells in rows.items())
    return Table("t1", "A table", "tests", columns, made, (1, 2), 0.1)


def both(name: str, dataset: str, *options: str) -> dict[str, Cell]:
    return {
        f"{dataset} {level}": Cell(name, dataset, f"{level}.auroc", 90.0, options)
        for level in ("image", "pixel")
    }


def planned(data: Path, rows: Mapping[str, Mapping[str, Cell]], **changes: object) -> Planned:
    wanted = Wanted(table_of(rows), (1,), ("honest",), lambda seed: data)
    return plan_table(replace(wanted, **changes), data.parent / "bench")


def jobs_of(found: Planned) -> list[Job]:
    return [Job.load(task.folder) for task in found.tasks]


def test_metrics_of_one_experiment_share_its_job(data: Path):
    found = planned(
        data, {"row": both("few", "Brain")}, seeds=(1, 2), protocols=("honest", "paper")
    )
    assert len(found.plan.cells) == 8
    assert len(found.tasks) == 4
    assert not found.missing
    assert [(job.experiment.fit.seed, job.protocol) for job in jobs_of(found)] == [
        *((1, "honest"), (1, "paper")),
        *((2, "honest"), (2, "paper")),
    ]
    digests = {cell.place: cell.digest for cell in found.plan.cells}
    image = digests["row", "Brain image", 1, "honest"]
    assert image == digests["row", "Brain pixel", 1, "honest"]
    assert image != digests["row", "Brain image", 1, "paper"]
    assert found.tasks[0].words == "row on Brain, seed 1, honest"


def test_the_plan_is_written_and_grows(data: Path):
    rows = {"row": both("few", "Brain")}
    planned(data, rows, seeds=(1,))
    planned(data, rows, seeds=(2,))
    kept = load_plan(data.parent / "bench", "t1")
    assert kept is not None
    assert {cell.seed for cell in kept.cells} == {1, 2}


def test_every_seed_reaches_the_options(data: Path):
    cell = Cell("few", "Brain", "image.auroc", None, ("data.support=seed:{seed}",))
    run = experiment_of(cell, 7, "honest", ["fit.epochs=3"])
    assert isinstance(run, Run)
    assert (run.fit.seed, run.data.support, run.fit.epochs) == (7, "seed:7", 3)


def test_zero_shot_takes_its_target_from_the_cell():
    cell = Cell("zero", "Liver", "image.auroc")
    honest, paper = (experiment_of(cell, 1, protocol) for protocol in ("honest", "paper"))
    assert isinstance(honest, Run)
    assert isinstance(paper, Run)
    assert honest.data.target == paper.data.target == "Liver"
    assert (honest.data.training_folder, paper.data.training_folder) == ("valid", "test")


def test_changed_images_make_another_job(data: Path):
    rows = {"row": both("few", "Brain"), "zero": both("zero", "Brain")}
    before = planned(data, rows).tasks
    next((data / "Liver/test/good/img").iterdir()).unlink()
    after = planned(data, rows).tasks
    assert before[0] == after[0], "few-shot sees one set alone"
    assert before[1] != after[1], "zero-shot learns from the others"


def test_changed_weights_make_another_job(data: Path):
    options = (f"config.backbone.weights={data / 'clip.safetensors'}",)
    rows = {"tiny": {"": Cell("few", "Brain", "image.auroc", None, options)}}
    found = []
    for content in (b"these", b"others"):
        (data / "clip.safetensors").write_bytes(content)
        found.append(planned(data, rows).tasks)
    assert len(found[0]) == 1
    assert found[0] != found[1]
    assert planned(data, rows, weights_are_here=False).tasks == found[1]


def test_a_missing_warm_start_is_listed(data: Path):
    options = ("fit.warm_start=warmer",)
    found = planned(data, {"warm": {"": Cell("few", "Brain", "image.auroc", None, options)}})
    ((reason, _),) = found.missing.items()
    assert reason.startswith("fit.warm_start=warmer: expected a packaged name (qfae-offline)")


def test_a_missing_set_is_listed_with_its_remedy(data: Path):
    rows = {"row": both("few", "Brain") | both("few", "Chest")}
    found = planned(data, rows)
    ((reason, numbers),) = found.missing.items()
    assert numbers == 2
    assert reason.startswith("data set Chest: ")
    assert "expected a data set 'Chest', found Brain, Liver" in reason
    assert "https://github.com/DorisBao/BMAD" in reason
    assert "CC BY-NC-SA 4.0, non-commercial" in reason
    assert [job.dataset for job in jobs_of(found)] == ["Brain"]


def test_zero_shot_waits_for_the_sets_that_teach(data: Path):
    found = planned(data, {"zero": both("zero", "Brain") | both("zero", "Chest")})
    assert not found.tasks
    assert found.lacking == 4


def test_what_teaches_is_looked_for_though_no_cell_names_it(data: Path):
    table = table_of({"zero": both("zero", "Brain"), "few": both("few", "Brain")})
    wanted = Wanted(table, (1,), ("honest",), lambda seed: data)
    assert len(plan_table(wanted, data.parent / "bench").tasks) == 2
    taught = replace(wanted, table=replace(table, teachers=("Brain", "Liver", "Chest")))
    found = plan_table(taught, data.parent / "bench")
    assert [job.experiment.data.supervision for job in jobs_of(found)] == ["few_shot"]
    ((reason, numbers),) = found.missing.items()
    assert reason.startswith("data set Chest: ")
    assert numbers == 2


def test_sets_that_do_not_teach_change_no_zero_shot_job(data: Path):
    rows = {"zero": both("zero", "Brain")}
    before = planned(data, rows).tasks
    write_set(data / "bottle", IMAGES)
    assert planned(data, rows).tasks == before


def test_everything_that_is_missing_is_told_at_once(data: Path, monkeypatch):
    heavy = preset("qfae-brain").model_copy(update={"preset": "heavy"})
    monkeypatch.setitem(PRESETS, "heavy", lambda: heavy)
    found = planned(
        data, {"a": both("heavy", "Chest")}, seeds=(1, 2), protocols=("honest", "paper")
    )
    assert not found.tasks
    assert found.lacking == 2
    assert set(found.missing.values()) == {2}, "numbers of the table, not jobs"
    words = sorted(reason.split(" are not on")[0].split(":")[0] for reason in found.missing)
    assert words == [
        "data set Chest",
        "the weights of vit_large_patch14_reg4_dinov2.lvd142m",
        "the weights of vit_large_patch16_224.mae",
    ]
    (_, *sets) = planned(data, {"z": both("zero", "Chest") | both("zero", "RESC")}).missing
    assert len(sets) == 1, "both sets"


@pytest.mark.parametrize("name", ["mine", "Liver"])
def test_one_set_does_not_stand_for_all(data: Path, name: str):
    alone = data.parent / name
    write_set(alone, IMAGES)
    rows = {"row": both("few", "Brain") | both("few", "Liver")}
    found = planned(alone, rows)
    assert [job.dataset for job in jobs_of(found)] == ([] if name == "mine" else ["Liver"])
    assert f"{alone}: expected a folder of data sets, got one set alone, '{name}'" in "".join(
        found.missing
    )
    table = alone / "phantom.csv"
    table.write_text("path,split,label\ntrain/good/img/0.png,train,0\n")
    found = planned(table, rows)
    assert not found.tasks
    assert "got one set alone, 'phantom'; give the folder above it" in next(iter(found.missing))


def test_a_plan_tells_which_data_each_number_reads(data: Path):
    found = planned(data, {"row": both("few", "Brain") | both("few", "Liver")}, seeds=(1, 2))
    read = {(cell.column.split()[0], cell.data) for cell in found.plan.cells}
    assert len(read) == 2
    assert "" not in {fingerprint for _, fingerprint in read}
    assert load_plan(data.parent / "bench", "t1") == found.plan


def test_missing_weights_are_listed_with_their_remedy(data: Path):
    found = planned(data, {"a": both("heavy", "Brain"), "b": both("few", "Brain")})
    ((reason, numbers),) = found.missing.items()
    assert numbers == 2
    assert reason.startswith("the weights of ViT-L-14-336/openai are not on this machine")
    assert "scanomaly weights fetch ViT-L-14-336/openai" in reason
    assert len(found.tasks) == 1


def test_weights_of_other_machines_are_not_looked_for_here(data: Path):
    found = planned(data, {"a": both("heavy", "Brain")}, weights_are_here=False)
    assert not found.missing
    assert len(found.tasks) == 1


def test_answerers_decode_as_published_under_the_published_protocol(data: Path):
    rows = {"row": {"closed": Cell("answers", "MI-VQA", "closed.accuracy")}}
    found = planned(data, rows, protocols=("honest", "paper"), weights_are_here=False)
    honest, paper = jobs_of(found)
    assert (honest.protocol, paper.protocol) == ("honest", "paper")
    assert isinstance(honest.experiment, VqaRun)
    assert isinstance(paper.experiment, VqaRun)
    assert not honest.experiment.config.reference_decoding
    published = honest.experiment.config.model_copy(update={"reference_decoding": True})
    assert paper.experiment.config == published
    assert [cell.digest for cell in found.plan.cells] == [honest.digest, paper.digest]


def test_one_job_serves_all_judges_that_are_here(data: Path):
    cells = {
        "closed": Cell("answers", "MI-VQA", "closed.accuracy"),
        "bart": Cell("answers", "MI-VQA", "nli.bart.entailment"),
    }
    found = planned(data, {"row": cells}, weights_are_here=False)
    (job,) = jobs_of(found)
    assert job.judges == ("bart",)
    assert {cell.digest for cell in found.plan.cells} == {job.digest}
    here = planned(data, {"row": cells})
    assert [cell.digest is None for cell in here.plan.cells] == [False, True]
    (reason,) = here.plan.cells[1].missing
    assert "bart-large-mnli are not on this machine" in reason
    assert jobs_of(here)[0].judges == ()


def test_a_printed_row_is_no_job(data: Path):
    printed = {"Brain image": Cell(None, "Brain", "image.auroc", 80.0)}
    found = planned(data, {"row": both("few", "Brain"), "rival": printed})
    assert {cell.row for cell in found.plan.cells} == {"row"}
    assert len(found.tasks) == 1
    assert not found.missing


def test_a_missing_folder_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere: expected a folder of data sets.*check --data"):
        planned(tmp_path / "nowhere", {"row": both("few", "Brain")})


def test_an_option_that_a_preset_does_not_take_is_an_error(data: Path):
    with pytest.raises(
        ConfigError, match=r"preset mvfa-offline-few: --set config.nothing: no field"
    ):
        planned(data, {"row": both("few", "Brain")}, options=("config.nothing=1",))
