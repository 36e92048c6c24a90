"""MVFA and IQE-CLIP from a folder of sets to reports and single images: the command line."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from methods.tiny_detectors import CLIP_OF_ONE_WIDTH, weight_folders
from scanomaly import evaluation
from tiny_runs import write_set

IMAGES = {
    ("valid", "good"): 6,
    ("valid", "Ungood"): 6,
    ("test", "good"): 4,
    ("test", "Ungood"): 4,
}
MASKED, UNMASKED = ("Brain", "Liver"), "Histopathology"
SMALLER = ("config.blocks=[1,3]", "config.backbone.side=32", "fit.epochs=2", "fit.batch_size=4")
IQE = ("config.queries={depth: 1, heads: 2, hidden: 24}", "config.score.sigma=2.0")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets with masks and one without, each with a valid and a test split."""
    root = tmp_path_factory.mktemp("sets")
    for name in (*MASKED, UNMASKED):
        write_set(root / name, IMAGES)
    for file in (root / UNMASKED).rglob("label/*.png"):
        file.unlink()
    return root


@pytest.fixture(scope="module")
def lone(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first set with a single test image."""
    root = shutil.copytree(sets / "Brain", tmp_path_factory.mktemp("lone") / "Brain")
    shutil.rmtree(root / "test" / "good")
    for file in sorted((root / "test").rglob("*.png")):
        if not file.stem.endswith("0_0"):
            file.unlink()
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that put the tiny CLIP in place of the full-size one."""
    weights = weight_folders(tmp_path_factory.mktemp("weights"))(CLIP_OF_ONE_WIDTH)
    fields = [f"config.backbone.name={CLIP_OF_ONE_WIDTH}", f"config.backbone.weights={weights}"]
    return [word for field in (*SMALLER, *fields) for word in ("--set", field)]


def settings(preset: str, tiny: list[str]) -> list[str]:
    extra = [word for field in IQE for word in ("--set", field)] if "iqe" in preset else []
    return ["--device", "cpu", *tiny, *extra]


def metrics(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / "metrics.json").read_text())
    return content


def lines(predictions: Path) -> list[dict[str, str]]:
    with predictions.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("preset", ["mvfa-few", "iqe-few"])
def test_a_few_labelled_images_teach_and_one_image_alone_has_a_score(
    preset, sets, lone, tiny, command, tmp_path
):
    run, data = tmp_path / "run", ["--data", sets, "--dataset", "Brain"]
    few = ["--shots", 3, "--support", "seed:7", "--out", run]
    done = command("fit", preset, *data, *few, *settings(preset, tiny))
    assert done.code == 0, done.err
    assert f"{CLIP_OF_ONE_WIDTH}: your own file" in done.out
    done = command("evaluate", run, *data)
    assert done.code == 0, done.err
    found = metrics(run)
    assert found["protocol"] == "honest"
    assert found["number_of_images"] == {"total": 8, "normal": 4, "abnormal": 4}
    assert found["splits"]["trained"].startswith("3-shot support (seed:7): 3 normal and 3 abnormal")
    assert found["splits"]["chose the checkpoint"] == "last epoch"
    assert found["pixel"]["auroc"]["value"] is not None
    scan = sorted((sets / "Brain/test/Ungood/img").iterdir())[0]
    assert command("predict", run, scan, "-o", tmp_path / "out").code == 0
    (alone,) = lines(tmp_path / "out/predictions.csv")
    (together,) = [line for line in lines(run / "predictions.csv") if scan.stem in line["id"]]
    ranges = load_file(run / "model.safetensors")["branch_ranges"]  # rounding is divided by them
    rounding = 4 * torch.finfo(torch.float32).eps / float(ranges.diff(dim=1).min())
    assert float(alone["score"]) == pytest.approx(float(together["score"]), abs=rounding)
    words, seen = {
        "mvfa-few": ("each left out of the memory in turn", False),
        "iqe-few": ("which were trained on", True),
    }[preset]
    assert found["splits"]["calibrated"] == f"the 3 healthy images of the support, {words}"
    assert any("p-values are too small" in note for note in found["notes"]) is seen
    page = (run / "report.html").read_text()
    for branch in {"mvfa-few": ("zero", "few"), "iqe-few": ("text", "query")}[preset]:
        assert f'alt="{branch} block 3 of ' in page
    done = command("figures", run, *data)
    assert done.code == 0, done.err
    points = lines(run / "figures/points-images.csv")
    taught = {point["id"] for point in points if point["trained"] == "1"}
    assert len(taught) == 6, "the support is marked"
    assert len({point["id"] for point in points}) == 12, "valid, and nothing else"
    assert all("valid" in point["id"] for point in points)
    for protocol in ("honest", "paper"):
        done = command("evaluate", run, "--data", lone, "--protocol", protocol)
        assert done.code == 0, done.err
        found = metrics(run)
        assert found["number_of_images"]["total"] == 1
        assert found["image"]["auroc"]["why"] == "one class only: 0 normal, 1 abnormal images"
        assert found["pixel"]["auroc"]["value"] is not None


def test_without_a_reconstruction_there_are_no_triples(sets, tiny, tiny_vqa, command, tmp_path):
    run, data, out = tmp_path / "run", ["--data", sets, "--dataset", "Brain"], tmp_path / "mivqa"
    few = ["--shots", 2, "--support", "seed:7", "--out", run, "--set", "fit.epochs=1"]
    done = command("fit", "mvfa-few", *data, *settings("mvfa-few", tiny), *few)
    assert done.code == 0, done.err
    scan = sorted((sets / "Brain/test/Ungood/img").iterdir())[0]
    asked = ["ask", run, tiny_vqa.folder, scan]
    for words in (["vqa", "make-triples", run, *data, "--out", out], asked):
        assert command(*words).error == (
            "expected a detector that makes a reconstruction, got mvfa, which makes none; fit one "
            "that does: qfae or autoencoder."
        )
    assert not out.exists()


@pytest.mark.parametrize("preset", ["mvfa-zero", "iqe-zero"])
def test_other_data_sets_teach_and_the_target_is_left_out(preset, sets, tiny, command, tmp_path):
    run = tmp_path / "run"
    zero = ["--target", "Brain", "--out", run, "--set", "data.pasted=2"]
    done = command("fit", preset, "--data", sets, *zero, *settings(preset, tiny))
    assert done.code == 0, done.err
    assert command("evaluate", run, "--data", sets).code == 0
    found = metrics(run)
    assert found["dataset"] == "Brain"
    trained = found["splits"]["trained"]
    assert trained.startswith("valid of Histopathology, Liver")
    assert trained.endswith("without Brain, 2 made abnormal of each normal one")
    assert "held out patient by patient" in found["splits"]["calibrated"]
    assert any("healthy images of other data sets" in note for note in found["notes"])


@pytest.mark.parametrize("preset", ["mvfa-few", "iqe-few"])
def test_the_published_protocol_stands_beside_the_honest_one(preset, sets, tiny, command, tmp_path):
    run, data = tmp_path / "run", ["--data", sets, "--dataset", "Brain"]
    few = ["--shots", 3, "--support", "seed:7", "--out", run, "--protocol", "paper"]
    done = command("fit", preset, *data, *few, *settings(preset, tiny))
    assert done.code == 0, done.err
    done = command("evaluate", run, *data, "--protocol", "paper")
    assert done.code == 0, done.err
    found = metrics(run)
    assert found["protocol"] == "paper"
    assert "best epoch on the test set" in found["splits"]["chose the checkpoint"]
    assert any("extremes over the whole test set" in note for note in found["notes"])
    for level in ("image", "pixel"):
        assert found["honest"][level]["auroc"]["value"] is not None
    assert "; honest " in done.out
    assert "As published" in (run / "report.md").read_text()
    assert (run / "evaluations/Brain-honest/metrics.json").is_file()
    assert (run / "evaluations/Brain-paper/metrics.json").is_file()


def test_the_honest_column_is_the_last_epoch_of_the_same_training(
    sets, tiny, command, tmp_path, monkeypatch
):
    """Of one batch an epoch, where the first epoch is the best on test."""
    falling = itertools.count(0, -1)
    monkeypatch.setattr(
        evaluation, "result_on_test", lambda read: lambda run, detector: next(falling)
    )
    run, data = tmp_path / "run", ["--data", sets, "--dataset", "Brain"]
    few = ["--shots", 3, "--support", "seed:7", "--out", run, "--protocol", "paper"]
    small = ["--set", "data.copies=none", "--set", "fit.learning_rate=0.01"]
    done = command("fit", "mvfa-few", *data, *few, *settings("mvfa-few", tiny), *small)
    assert done.code == 0, done.err
    assert json.loads((run / "training.json").read_text())["steps"] == 2
    chosen, last = (load_file(one / "model.safetensors") for one in (run, run / "last-epoch"))
    assert chosen.keys() == last.keys()
    assert any(not torch.equal(chosen[name], last[name]) for name in chosen if "heads" in name)

    assert command("evaluate", run / "last-epoch", *data).code == 0
    assert command("evaluate", run, *data, "--protocol", "paper").code == 0
    found, alone = metrics(run), metrics(run / "last-epoch")
    assert found["splits"]["chose the checkpoint"].startswith("best epoch on the test set")
    assert alone["splits"]["chose the checkpoint"] == "last epoch"
    assert found["honest"]["splits"] == alone["splits"]
    assert found["honest"]["pixel"] == alone["pixel"]
    assert any("last epoch of the same training" in note for note in found["notes"])


def test_published_zero_shot_trains_on_the_test_folders_of_the_others_and_says_so(
    sets, tiny, command, tmp_path
):
    run = tmp_path / "run"
    zero = ["--set", "data.target=Brain", "--protocol", "paper", "--out", run]
    done = command("fit", "iqe-zero", "--data", sets, *zero, *settings("iqe-zero", tiny))
    assert done.code == 0, done.err
    assert command("evaluate", run, "--data", sets, "--protocol", "paper").code == 0
    splits = metrics(run)["splits"]
    assert splits["trained"].startswith("test of Histopathology, Liver, all images of the data")
    assert splits["chose the checkpoint"].startswith("best epoch on the test set")
    assert splits["calibrated"] == "nothing: as published"
    assert "test of Histopathology, Liver" in (run / "report.md").read_text()


def test_a_set_without_masks_has_no_pixel_metrics(sets, tiny, command, tmp_path):
    run, data = tmp_path / "run", ["--data", sets, "--dataset", UNMASKED]
    few = ["--shots", 2, "--support", "seed:7", "--out", run]
    assert command("fit", "mvfa-few", *data, *few, *settings("mvfa-few", tiny)).code == 0
    assert command("evaluate", run, *data).code == 0
    nothing = {"value": None, "why": "this data set has no masks"}
    assert metrics(run)["pixel"]["auroc"] == nothing


class TestBadInput:
    """One line that says what is wrong, exit code 2."""

    def test_more_shots_than_images(self, sets, refused, tmp_path):
        refused(
            r"Brain: expected at least 9 normal images in valid .* found 6 .* data.shots=6",
            *("fit", "mvfa-few", "--data", sets, "--dataset", "Brain", "--out", tmp_path / "run"),
            *("--shots", 9, "--support", "seed:7"),
        )

    def test_a_published_support_that_is_not_there(self, sets, refused, tmp_path):
        refused(
            r"published 2-shot list of Brain: 2 of its 2 images are not among the 6 .*"
            r"Brain/valid.* draw a support with data.support=seed:0",
            *("fit", "iqe-few", "--data", sets, "--dataset", "Brain", "--out", tmp_path / "run"),
            *("--shots", 2),
        )

    def test_no_target(self, sets, refused, tmp_path):
        refused(
            r"data.supervision=zero_shot needs data.target: give --target",
            *("fit", "mvfa-zero", "--data", sets, "--out", tmp_path / "run"),
        )

    def test_an_unknown_target(self, sets, refused, tmp_path):
        refused(
            r"expected one of the data sets \(Brain, Histopathology, Liver\), got 'Spine'",
            *("fit", "mvfa-zero", "--data", sets, "--target", "Spine", "--out", tmp_path / "run"),
        )

    def test_no_weights_and_no_network(self, sets, refused, tmp_path, monkeypatch):
        monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path))
        refused(
            r"ViT-L-14-336/openai.*weights fetch",
            *("--offline", "fit", "mvfa-few", "--data", sets, "--dataset", "Brain"),
            *("--shots", 3, "--support", "seed:7", "--out", tmp_path / "run"),
        )
