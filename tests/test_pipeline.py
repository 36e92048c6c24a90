"""From a run folder to findings, predictions, evaluations and the command line's answers."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scanomaly
from scanomaly import cli
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.errors import DataError
from scanomaly.evaluation import evaluate
from scanomaly.metrics.detection import auroc
from scanomaly.prediction import overlaid, predict_files
from tiny_runs import HEIGHT, WIDTH, save_image, slice_pixels, write_set


def run_cli(monkeypatch, capsys, *words):
    """Exit code, stdout and stderr of one command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["scanomaly", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    return stop.value.code or 0, printed.out, printed.err


def predictions_in(folder):
    return list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))


class TestScore:
    def test_a_file_and_its_pixels_score_alike_on_their_own_grid(self, tiny):
        detector = scanomaly.load(tiny.folder, device="cpu")
        finding = detector.score(tiny.scan)
        again = detector.score(np.asarray(Image.open(tiny.scan)))
        assert again.score == pytest.approx(finding.score, rel=1e-5)
        assert finding.anomaly_map.shape == (HEIGHT, WIDTH)
        assert finding.reconstruction.shape == (HEIGHT, WIDTH, 3)
        assert finding.p_value == detector.calibration.p_value(finding.score)
        assert finding.flagged == (finding.p_value <= 0.3)

    def test_score_rows_gives_the_same_in_batches(self, tiny):
        test = tiny.manifest.split("test")
        scored = list(tiny.fitted.score_rows(test))
        assert [one.row for one in scored] == list(test)
        alone = [tiny.fitted.score(row.path).score for row in test]
        np.testing.assert_allclose([one.score for one in scored], alone, rtol=1e-4)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.full((32, 32), np.nan), "array"),
            (np.zeros((32, 32, 7)), "array"),
            (np.zeros((1, 1), np.uint8), "array"),
        ],
    )
    def test_bad_arrays_are_refused(self, tiny, array, message):
        with pytest.raises(DataError, match=message):
            tiny.fitted.score(array)

    @pytest.mark.filterwarnings("ignore")
    def test_an_all_black_image_gets_a_finite_score(self, tiny):
        assert np.isfinite(tiny.fitted.score(np.zeros((30, 50), np.uint8)).score)


class TestEvaluation:
    def test_metrics_are_those_of_the_scores(self, tiny):
        evaluation = evaluate(tiny.fitted, tiny.manifest)
        scores = [row.score for row in evaluation.rows]
        labels = [row.label for row in evaluation.rows]
        assert evaluation.image["auroc"].value == pytest.approx(auroc(scores, labels))
        assert 0 <= evaluation.pixel["auroc"].value <= 1
        assert evaluation.splits["scored"] == "test: 6 normal and 4 abnormal images"
        assert evaluation.splits["chose the checkpoint"] == "last epoch"
        assert {panel.kind for panel in evaluation.panels} <= {
            "hit",
            "miss",
            "false alarm",
            "correct rejection",
        }
        assert evaluation.panels[0].anomaly_map.shape == (HEIGHT, WIDTH)

    def test_the_native_grid_gives_other_pixel_metrics(self, tiny):
        native = evaluate(tiny.fitted, tiny.manifest, pixel_grid="native")
        assert native.pixel_grid.startswith("native")
        assert native.pixel["ap"].value is not None
        assert native.image == evaluate(tiny.fitted, tiny.manifest).image

    def test_one_class_and_no_masks_say_why(self, tiny):
        rows = tuple(replace(row, mask=None) for row in tiny.manifest)
        maskless = evaluate(tiny.fitted, replace(tiny.manifest, rows=rows))
        assert maskless.pixel["auroc"].value is None
        assert "no masks" in maskless.pixel["auroc"].why
        good = tuple(row for row in tiny.manifest if not row.label)
        one_class = evaluate(tiny.fitted, replace(tiny.manifest, rows=good))
        assert "one class" in one_class.image["auroc"].why

    def test_the_paper_protocol_says_what_it_drops(self, tiny):
        evaluation = evaluate(tiny.fitted, tiny.manifest, protocol="paper")
        assert any("Published protocol" in note for note in evaluation.notes)
        assert len(evaluation.rows) == 10

    def test_no_test_split_is_an_error(self, tiny):
        train = Manifest(tiny.manifest.split("train").rows, "Brain", "test")
        with pytest.raises(DataError, match=r"Brain: expected a test split"):
            evaluate(tiny.fitted, train)


class TestPredict:
    def test_everything_is_on_the_files_own_grid(self, tiny, tmp_path):
        save_image(tmp_path / "in" / "a" / "x.png", slice_pixels(1)[0])
        save_image(tmp_path / "in" / "b" / "x.png", slice_pixels(2, True)[0])
        out = tmp_path / "out"
        assert predict_files(tiny.fitted, [tmp_path / "in"], out) == []
        lines = predictions_in(out)
        assert list(lines[0]) == ["id", "patient", "label", "score", "p_value", "flagged"]
        for line in lines:
            assert np.load(out / "maps" / f"{line['id']}.npy").shape == (HEIGHT, WIDTH)
            for kind in ("overlays", "reconstructions"):
                with Image.open(out / kind / f"{line['id']}.png") as picture:
                    assert picture.size == (WIDTH, HEIGHT)

    def test_a_bad_file_loses_nothing(self, tiny, tmp_path):
        save_image(tmp_path / "in" / "good.png", slice_pixels(1)[0])
        broken = tmp_path / "in" / "broken.png"
        broken.write_bytes((tmp_path / "in" / "good.png").read_bytes()[:60])
        failed = predict_files(tiny.fitted, [tmp_path / "in"], tmp_path / "out")
        assert len(failed) == 1
        assert "broken.png" in failed[0]
        lines = predictions_in(tmp_path / "out")
        assert [line["id"] for line in lines] == ["good"]

    def test_an_overlay_leaves_healthy_pixels_alone(self):
        image = np.full((4, 4, 3), 100, np.uint8)
        scaled = np.zeros((4, 4), np.float32)
        scaled[0, 0] = 1
        overlay = overlaid(image, scaled)
        assert (overlay[1:] == 100).all()
        assert (overlay[0, 0] != 100).any()


class TestCommandLine:
    def test_evaluate_writes_the_reports_twice_and_names_one(
        self, tiny, run_copy, monkeypatch, capsys
    ):
        code, out, _ = run_cli(monkeypatch, capsys, "evaluate", run_copy, "--data", tiny.data)
        assert code == 0
        own = run_copy / "evaluations" / "Brain-honest"
        for folder in (own, run_copy):
            assert {"report.html", "report.md", "metrics.json", "predictions.csv"} <= {
                file.name for file in folder.iterdir()
            }
        assert f"report: {own / 'report.html'}" in out
        assert "image auroc: " in out
        value = json.loads((own / "metrics.json").read_text())["image"]["auroc"]["value"]
        assert 0 <= value <= 1

    def test_predict_reports_bad_files_and_exits_with_2(self, tiny, tmp_path, monkeypatch, capsys):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "x.png").write_bytes(b"not an image")
        words = ("predict", tiny.folder, tmp_path / "in", tiny.scan, "-o", tmp_path / "out")
        code, out, err = run_cli(monkeypatch, capsys, *words)
        assert code == 2
        assert "predictions.csv" in out
        assert "x.png" in err
        assert "Traceback" not in err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("fit", "nope", "--data", "."), "no preset 'nope'"),
            (("fit", "--data", "."), "expected a preset name or --config"),
            (("fit", "qfae-offline", "--data", "EMPTY"), "EMPTY"),
            (("evaluate", "EMPTY", "--data", "DATA"), "expected a run folder"),
            (("predict", "RUN", "missing.png", "-o", "OUT"), "missing.png"),
            (("weights", "fetch", "nope", "--to", "OUT"), "nope"),
        ],
    )
    def test_errors_are_one_line_and_exit_code_2(
        self, words, message, tiny, tmp_path, monkeypatch, capsys
    ):
        (tmp_path / "EMPTY").mkdir()
        places = {"EMPTY": tmp_path / "EMPTY", "DATA": tiny.data, "RUN": tiny.folder}
        places["OUT"] = tmp_path / "OUT"
        code, _, err = run_cli(monkeypatch, capsys, *(places.get(word, word) for word in words))
        assert code == 2
        assert err.strip().splitlines()[-1].startswith("error: ")
        assert message in err
        assert "Traceback" not in err

    def test_a_set_without_good_images_is_named(self, tmp_path, monkeypatch, capsys):
        data = write_set(tmp_path / "Brain", {("train", "Ungood"): 2, ("test", "Ungood"): 2})
        words = ("fit", "qfae-offline", "--data", data, "--out", tmp_path / "run")
        code, _, err = run_cli(monkeypatch, capsys, *words)
        assert code == 2
        assert "expected normal training images" in err

    def test_debug_shows_the_traceback(self, monkeypatch, capsys):
        words = ("fit", "nope", "--data", ".", "--debug")
        code, _, err = run_cli(monkeypatch, capsys, *words)
        assert code == 2
        assert "Traceback" in err
        assert "no preset 'nope'" in err.strip().splitlines()[-1]

    def test_version_and_lists(self, monkeypatch, capsys):
        assert run_cli(monkeypatch, capsys, "--version")[1].strip().endswith(scanomaly.__version__)
        code, out, _ = run_cli(monkeypatch, capsys, "weights", "list")
        assert code == 0
        assert "CC BY-NC 4.0" in out
        assert "qfae-offline" in run_cli(monkeypatch, capsys, "presets")[1]

    def test_phantom_writes_a_set_that_can_be_read(self, tmp_path, monkeypatch, capsys):
        out = tmp_path / "phantom"
        assert run_cli(monkeypatch, capsys, "phantom", out, "--patients", 6)[0] == 0
        assert read_manifest(out).has_masks


@pytest.mark.slow
def test_the_quick_demo_through_the_real_command_line(tmp_path):
    command = [
        str(Path(sys.executable).with_name("scanomaly")),
        "demo",
        "--quick",
        "--out",
        str(tmp_path / "d"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    report = done.stdout.split("report: ")[1].strip()
    assert "Research software, not a medical device" in Path(report).read_text(encoding="utf-8")
    assert (tmp_path / "d" / "run" / "predictions.csv").is_file()
    again = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 2
    assert "already holds a demo" in again.stderr
