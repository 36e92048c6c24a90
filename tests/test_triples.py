"""Triples of a fitted detector's pictures, with questions and answers about them."""

import csv
import json
import logging
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scanomaly.data.images import read_image
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.data.mivqa import TRIPLES, VqaItem, read_corpus
from scanomaly.errors import ConfigError, DataError
from scanomaly.methods import METHODS
from scanomaly.methods.qfae import QFAE
from scanomaly.methods.reconstruction import ReconstructionDetector
from scanomaly.questions import QUESTIONS, is_unseen, question_of
from scanomaly.triples import RECONSTRUCTING, make_triples
from tiny_runs import HEIGHT, IMAGES, WIDTH, TinyRun, save_image, write_set

REDUCED = ["C1", "O1", "O3"]


@pytest.fixture(scope="module")
def made(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triples of the whole tiny set; nobody writes into them."""
    out = tmp_path_factory.mktemp("made") / "mivqa"
    result = make_triples(tiny.fitted, tiny.manifest, out)
    assert (result.triples, result.failed) == (len(tiny.manifest), ())
    return out


def names(items: tuple[VqaItem, ...]) -> list[str]:
    return [question_of(item.question).name for item in items]


def test_patients_splits_and_truth_are_kept(made, tiny):
    corpus = read_corpus(made)
    assert Counter(item.split for item in corpus.items) == Counter(
        {
            split: 3 * sum(n for (of, _), n in IMAGES.items() if of == split)
            for split in ("train", "valid", "test")
        }
    )
    rows = {row.id: row for row in tiny.manifest}
    for item in corpus.items:
        row = rows[item.id.rpartition("-")[0]]
        assert (item.patient, item.split) == (row.patient, row.split)
        if item.question == QUESTIONS["C1"].text:
            assert item.answer == ("No." if row.label else "Yes.")
    assert Counter(names(corpus.items)) == dict.fromkeys(REDUCED, len(rows))


def test_items_carry_what_the_detector_says(made, tiny):
    item = next(i for i in read_corpus(made).test if tiny.scan.stem in i.id)
    finding = tiny.fitted.score(tiny.scan)
    assert item.score == pytest.approx(finding.score)
    assert (item.p_value, item.flagged) == (finding.p_value, finding.flagged)
    assert isinstance(item.flagged, bool)


def test_a_detector_that_can_flag_nothing_says_nothing_of_a_flag(tiny, tmp_path):
    calibration = replace(tiny.fitted.calibration, scores=tiny.fitted.calibration.scores[:1])
    few = replace(tiny.fitted, calibration=calibration)
    make_triples(few, replace(tiny.manifest, rows=tiny.manifest.rows[:1]), tmp_path)
    assert {item.flagged for item in read_corpus(tmp_path).items} == {None}


def test_pictures_are_what_the_detector_shows_on_the_files_grid(made, tiny):
    item = next(i for i in read_corpus(made).test if tiny.scan.stem in i.id)
    finding = tiny.fitted.score(tiny.scan)
    image, anomaly_map, reconstruction = (read_image(path) for path in item.pictures)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(image, read_image(tiny.scan))
    low, high = tiny.fitted.calibration.map_range
    shown = ((finding.anomaly_map - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(anomaly_map - shown[..., None]).max() <= 0.51, "the fixed scale, without colour"
    assert np.array_equal(reconstruction, finding.reconstruction)


def test_an_interrupted_run_goes_on(made, tiny, tmp_path, monkeypatch, caplog):
    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_triples(tiny.fitted, tiny.manifest, tmp_path / "mivqa", progress=stop)
    scored = count_scored(monkeypatch)
    told: list[tuple[int, int]] = []
    with caplog.at_level(logging.INFO):
        make_triples(
            *(tiny.fitted, tiny.manifest, tmp_path / "mivqa"),
            progress=lambda done, total: told.append((done, total)),
        )
    total = len(tiny.manifest)
    assert f"7 of {total} triples were made before" in caplog.text
    assert "the detector was trained on train: 10 normal images of Brain: its maps" in caplog.text
    assert (sum(scored), told[0], told[-1]) == (total - 7, (8, total), (total, total))
    again, before = contents(tmp_path / "mivqa"), contents(made)
    pairs = zip(lines(again.pop(TRIPLES)), lines(before.pop(TRIPLES)), strict=True)
    assert again == before, "as if never interrupted"
    for one, other in pairs:  # rounding hangs on the batch, and ranks on rounding
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
        verdict = ("p_value", "flagged")
        assert {k: v for k, v in one.items() if k not in verdict} == {
            k: v for k, v in other.items() if k not in verdict
        }


def test_triples_of_another_detector_are_made_anew(tiny, tmp_path, monkeypatch):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_triples(tiny.fitted, tiny.manifest, tmp_path, progress=stop)
    scored = count_scored(monkeypatch)
    calibration = replace(tiny.fitted.calibration, map_range=(0.0, 9.0))
    other = replace(tiny.fitted, calibration=calibration)
    make_triples(other, tiny.manifest, tmp_path)
    assert sum(scored) == len(tiny.manifest)


def count_scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches scored from now on."""
    scored: list[int] = []
    predict = QFAE.predict

    def counting(self, batch):
        scored.append(len(batch))
        return predict(self, batch)

    monkeypatch.setattr(QFAE, "predict", counting)
    return scored


def lines(content: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in content.decode().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_bad_images_and_masks_are_named_and_nothing_else_is_lost(tiny, tmp_path, caplog):
    data = write_set(tmp_path / "Brain", {("test", "good"): 2, ("test", "Ungood"): 4})
    scans = sorted((data / "test" / "Ungood" / "img").iterdir())
    scans[0].write_bytes(scans[0].read_bytes()[:100])
    mask = data / "test" / "Ungood" / "label" / scans[1].name
    save_image(mask, np.zeros((9, 9), np.uint8))
    made = make_triples(tiny.fitted, read_manifest(data), tmp_path / "mivqa")
    assert made.triples == 4
    first, second = made.failed
    assert f"{scans[0]}: expected an image, but it is damaged" in first
    assert f"{mask}: the mask has 9x9 pixels" in second
    assert [r.message for r in caplog.records if r.message.startswith("left out: ")] == [
        f"left out: {first}",
        f"left out: {second}",
    ]
    assert len(read_corpus(tmp_path / "mivqa").test) == 4 * 3


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    """A folder such as `scanomaly phantom --vqa` writes: what is known of each image beside it."""
    data = write_set(tmp_path / "heads", {("test", "good"): 2, ("test", "Ungood"): 3})
    kinds = iter(["mass lesion", "enlarged ventricles", "encephalomalacia"])
    with (data / "phantom.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            [
                *("id", "patient", "path", "label", "mask", "split"),
                *("kind", "severity", "side", "lobe", "diameter_mm", "healthy"),
            ]
        )
        for image in sorted(data.rglob("img/*.png")):
            path = image.relative_to(data).as_posix()
            ill = "Ungood" in path
            mask = path.replace("/img/", "/label/") if ill else ""
            kind = next(kinds) if ill else ""
            healthy = f"test/good/img/{FIRST}"
            finding = [kind, "severe", "left", "frontal", "30.5", healthy] if ill else [""] * 6
            table.writerow([image.stem, "p1", path, int(ill), mask, "test", *finding])
    return data


FIRST = "testgood0_0.png"


def test_heads_are_asked_all_that_is_known(tiny, heads, tmp_path):
    make_triples(tiny.fitted, read_manifest(heads), tmp_path / "mivqa")
    items = read_corpus(tmp_path / "mivqa").items
    asked = {kind: names(tuple(i for i in items if i.category == kind)) for kind in kinds_of(items)}
    assert asked == {
        "normal": [*QUESTIONS, *QUESTIONS],
        "mass lesion": list(QUESTIONS),
        "enlarged ventricles": list(QUESTIONS),
        "encephalomalacia": ["C1"],  # an unseen kind has no answer word
    }
    condition = {i.category: i.answer for i in items if i.question == QUESTIONS["C2"].text}
    assert condition["mass lesion"] == "It's mass lesion."
    mass = next(i for i in items if i.category == "mass lesion")
    assert mass.facts == {
        **{"abnormal": True, "kind": "mass lesion", "severity": "severe"},
        **{"side": "left", "lobe": "frontal", "diameter_mm": 30.5},
    }


def test_kinds_of_any_labelled_folder_are_kept(tiny, tmp_path):
    data = write_set(tmp_path / "Brain", {("test", "good"): 1, ("test", "Ungood"): 3})
    kinds = {"good": iter(["", ""]), "Ungood": iter(["dural thickening", "Mass_Lesion", ""])}
    with (data / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", "kind"])
        for image in sorted(data.rglob("img/*.png")):
            folder = image.parents[1].name
            path = image.relative_to(data).as_posix()
            table.writerow([path, int(folder == "Ungood"), "test", next(kinds[folder])])
    make_triples(tiny.fitted, read_manifest(data), tmp_path / "mivqa")
    items = read_corpus(tmp_path / "mivqa").items
    ill = [i for i in items if (i.question, i.answer) == (QUESTIONS["C1"].text, "No.")]
    told = {item.category for item in ill}
    assert told == {"dural thickening", "Mass_Lesion", ""}, "as the manifest spells them"
    assert {kind for kind in told if is_unseen(kind)} == {"dural thickening"}
    assert "C2" not in names(items), "words of another set are not asked about"
    assert all("kind" not in item.facts for item in items)


def kinds_of(items: tuple[VqaItem, ...]) -> set[str]:
    return {item.category for item in items}


def test_without_splits_all_is_test_and_without_labels_nothing(tiny, tmp_path, caplog):
    rows = tuple(replace(row, split=None) for row in tiny.manifest.rows[:3])
    unlabelled = replace(tiny.manifest.rows[3], label=None)
    manifest = Manifest((*rows, unlabelled), "own", "tests")
    made = make_triples(tiny.fitted, manifest, tmp_path / "mivqa")
    assert made.triples == len({item.image for item in read_corpus(tmp_path / "mivqa").test}) == 3
    assert "own: 1 images without a label are left out" in caplog.text
    assert "own: 3 images name no split and become test" in caplog.text
    with pytest.raises(DataError, match="own: expected images with a label, got 1 without"):
        make_triples(tiny.fitted, Manifest((unlabelled,), "own", "tests"), tmp_path / "b")


class TestRefused:
    def test_folders_with_something_in_them(self, made, tiny, tmp_path):
        before = contents(made)
        with pytest.raises(DataError, match="already holds finished triples"):
            make_triples(tiny.fitted, tiny.manifest, made)
        assert contents(made) == before
        (tmp_path / "notes.txt").write_text("years of work")
        with pytest.raises(DataError, match=f"{tmp_path} holds other files"):
            make_triples(tiny.fitted, tiny.manifest, tmp_path)
        with pytest.raises(DataError, match=r"notes\.txt: expected a folder"):
            make_triples(tiny.fitted, tiny.manifest, tmp_path / "notes.txt")

    def test_a_set_of_bad_images(self, tiny, tmp_path):
        data = shutil.copytree(tiny.data / "test", tmp_path / "Brain" / "test").parent
        for file in data.rglob("img/*.png"):
            file.write_bytes(b"")
        with pytest.raises(DataError, match=r"no triple could be made of 10 images; the first: "):
            make_triples(tiny.fitted, read_manifest(data), tmp_path / "mivqa")
        assert not (tmp_path / "mivqa" / "triples.jsonl").exists()

    def test_a_detector_without_calibration(self, tiny, tmp_path):
        bare = replace(tiny.fitted, calibration=None)
        with pytest.raises(ConfigError, match="expected a calibrated detector, got one without"):
            make_triples(bare, tiny.manifest, tmp_path / "mivqa")
        assert not (tmp_path / "mivqa").exists()


def test_the_methods_named_are_those_that_reconstruct():
    makers = [n for n, method in METHODS.items() if issubclass(method, ReconstructionDetector)]
    assert sorted(RECONSTRUCTING) == sorted(makers)
