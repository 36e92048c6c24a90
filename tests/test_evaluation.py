"""Evaluation against plain computations, and the notes that a reader needs."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from noise_bench import SIDE, Bench, Brightness, make_bench
from scanomaly.data.images import read_mask
from scanomaly.data.manifest import Manifest
from scanomaly.errors import DataError
from scanomaly.evaluation import Evaluation, evaluate
from scanomaly.panels import PANEL_KINDS
from scanomaly.records import Batch, Prediction
from tiny_runs import HEIGHT, WIDTH, TinyRun, save_image


@pytest.fixture(scope="module")
def bench(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tiny.run, tmp_path_factory.mktemp("noise") / "Brain")


@pytest.fixture(scope="module")
def honest(bench: Bench) -> Evaluation:
    return bench.evaluate()


@pytest.fixture(scope="module")
def native(bench: Bench) -> Evaluation:
    return bench.evaluate(pixel_grid="native")


def pixels_of(bench: Bench, grid: str) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Every test pixel's truth and value, the plain way."""
    truths, values = [], []
    for row in bench.manifest:
        found = bench.fitted.score(row.path)
        if grid == "native":
            values.append(found.anomaly_map)
            size = found.anomaly_map.shape
            truths.append(read_mask(row.mask, size) if row.mask else np.zeros(size, bool))
        else:
            (one,) = bench.fitted.score_rows(Manifest((row,), "", ""), with_masks=True)
            values.append(one.anomaly_map)
            truths.append(one.mask)
    return np.concatenate([t.ravel() for t in truths]), np.concatenate([v.ravel() for v in values])


class TestNumbers:
    """Metrics, scores and flags."""

    def test_image_metrics_equal_a_plain_computation(self, bench, honest):
        scores = [bench.fitted.score(row.path).score for row in bench.manifest]
        labels = [row.label for row in bench.manifest]
        assert 0.5 < honest.image["auroc"].value < 1, "this test needs a detector that errs"
        assert honest.image["auroc"].value == pytest.approx(roc_auc_score(labels, scores))
        assert honest.image["ap"].value == pytest.approx(average_precision_score(labels, scores))
        top = max(row.score for row in honest.rows if not row.label)
        found = np.mean([row.score > top for row in honest.rows if row.label])
        assert honest.image["sensitivity_at_95_specificity"].value == pytest.approx(found)

    @pytest.mark.parametrize("grid", ["model", "native"])
    def test_pixel_metrics_equal_a_plain_computation(self, bench, honest, native, grid):
        found = {"model": honest, "native": native}[grid]
        truth, values = pixels_of(bench, grid)
        assert found.pixel["auroc"].value == pytest.approx(roc_auc_score(truth, values))
        assert found.pixel["ap"].value == pytest.approx(average_precision_score(truth, values))
        dice = [
            2 * (truth & (values >= t)).sum() / (truth.sum() + (values >= t).sum())
            for t in np.unique(values[truth])
        ]
        assert found.pixel["dice_best"].value == pytest.approx(max(dice), abs=1e-6)
        assert 0 < found.pixel["aupro_0.3"].value < 1

    def test_the_grids_are_named_and_differ(self, honest, native):
        assert honest.pixel_grid == f"model {SIDE}x{SIDE}"
        assert native.pixel_grid == "native, each file's own"
        assert native.pixel["ap"].value != honest.pixel["ap"].value
        assert native.image == honest.image

    def test_every_image_has_its_line(self, bench, honest):
        assert [row.id for row in honest.rows] == [row.id for row in bench.manifest]
        for line, row in zip(honest.rows, bench.manifest, strict=True):
            alone = bench.fitted.score(row.path)
            assert (line.patient, line.label) == (row.patient, row.label)
            assert line.score == pytest.approx(alone.score)
            assert (line.p_value, line.flagged) == (alone.p_value, alone.flagged)
        assert {line.flagged for line in honest.rows} == {True, False}

    def test_intervals_enclose_the_value_and_resample_patients(self, honest):
        for estimate in (*honest.image.values(), *honest.pixel.values()):
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.low < estimate.high
        assert honest.resampled == "patients"

    @pytest.mark.parametrize(("grid", "small"), [("model", "5-10"), ("native", "10-20")])
    def test_lesions_by_size(self, bench, honest, native, grid, small):
        """A lesion of 4 x 4 of 40 x 48 pixels is 10.3 % wide; resizing takes a little of it."""
        found = {"model": honest, "native": native}[grid]
        counts = {name: stratum.positives for name, stratum in found.by_size.items()}
        assert list(counts) == ["0-2.5", "2.5-5", "5-10", "10-20", "20-100"]
        assert {name: count for name, count in counts.items() if count} == {small: 8, "20-100": 6}
        masks = {row.id: np.asarray(Image.open(row.mask)) for row in bench.rows(label=True)}
        kept = [row for row in found.rows if not row.label or (masks[row.id] > 0).sum() > 100]
        expected = roc_auc_score([row.label for row in kept], [row.score for row in kept])
        assert found.by_size["20-100"].metrics["auroc"].value == pytest.approx(expected)
        assert (
            found.by_size["0-2.5"]
            .metrics["auroc"]
            .why.startswith("one class only: 14 normal, 0 ab")
        )

    def test_what_the_report_needs(self, bench, honest):
        assert honest.run == bench.fitted.run
        assert (honest.dataset, honest.protocol) == ("Brain", "honest")
        assert honest.splits["scored"] == "test: 14 normal and 14 abnormal images"
        assert honest.splits["calibrated"] == "made up"
        threshold = bench.fitted.calibration.threshold
        assert (honest.threshold, honest.false_alarm_rate, honest.notes) == (threshold, 0.3, ())
        assert honest.seconds_per_image > 0


class TestPanels:
    """The rows of pictures."""

    def test_the_kinds_in_order_each_with_its_clearest_first(self, honest):
        expected = []
        truths = ((True, True), (True, False), (False, True), (False, False))
        for kind, (label, flag) in zip(PANEL_KINDS, truths, strict=True):
            rows = [row for row in honest.rows if (row.label, row.flagged) == (label, flag)]
            rows.sort(key=lambda row: row.score, reverse=flag)
            assert rows, "this test needs every kind"
            expected += [(kind, row.id) for row in rows[:4]]
        assert [(panel.kind, panel.scored.id) for panel in honest.panels] == expected

    def test_everything_lies_on_the_files_own_grid(self, bench, honest):
        rows = {row.id: row for row in bench.manifest}
        sizes = set()
        for panel in honest.panels:
            size = panel.image.shape[:2]
            sizes.add(size)
            assert panel.anomaly_map.shape == panel.truth.shape == size
            assert panel.reconstruction.shape == panel.image.shape == (*size, 3)
            assert panel.truth.any() == rows[panel.scored.id].label
        assert sizes == {(HEIGHT, WIDTH), (HEIGHT + 8, WIDTH - 8)}

    def test_maps_are_on_the_calibrated_scale(self, bench, honest):
        panel = honest.panels[0]
        raw = bench.fitted.score(next(r.path for r in bench.manifest if r.id == panel.scored.id))
        assert panel.anomaly_map == pytest.approx((raw.anomaly_map - 0.2) / 0.6, abs=1e-5)


class TestIncompleteSets:
    """Undefined is said, with the reason, and nothing crashes."""

    @pytest.mark.parametrize("label", [False, True])
    def test_one_class(self, bench, label):
        found = bench.evaluate(bench.rows(label=label))
        words = "0 normal, 14 abnormal" if label else "14 normal, 0 abnormal"
        for estimate in found.image.values():
            assert (estimate.value, estimate.why) == (None, f"one class only: {words} images")
        assert len(found.rows) == 14
        assert (found.pixel["auroc"].value is None) == (not label)

    def test_anomalies_by_kind(self, bench, honest):
        abnormal = [row.id for row in bench.manifest if row.label]
        kinds = {name: "cyst" if at < 5 else "haemorrhage" for at, name in enumerate(abnormal)}
        rows = tuple(replace(row, kind=kinds.get(row.id)) for row in bench.manifest)
        found = bench.evaluate(rows).by_kind
        assert {name: stratum.positives for name, stratum in found.items()} == {
            "cyst": 5,
            "haemorrhage": 9,
        }
        kept = [row for row in honest.rows if kinds.get(row.id) != "haemorrhage"]
        expected = roc_auc_score([row.label for row in kept], [row.score for row in kept])
        assert found["cyst"].metrics["auroc"].value == pytest.approx(expected)
        assert honest.by_kind == {}

    def test_no_masks(self, bench):
        rows = tuple(replace(row, mask=None) for row in bench.manifest)
        found = bench.evaluate(rows)
        for estimate in found.pixel.values():
            assert (estimate.value, estimate.why) == (None, "this data set has no masks")
        assert found.pixel.keys() == {"auroc", "ap", "aupro_0.3", "dice_best"}
        assert found.by_size == {}
        assert found.image["auroc"].value is not None
        assert all((panel.truth is None) == panel.scored.label for panel in found.panels)

    @pytest.mark.parametrize("grid", ["model", "native"])
    def test_some_masks_are_missing(self, bench, honest, grid):
        lost = [row for row in bench.manifest if row.label][:3]
        rows = tuple(replace(row, mask=None) if row in lost else row for row in bench.manifest)
        found = bench.evaluate(rows, pixel_grid=grid)
        note = "3 abnormal test images without a mask are left out of pixel metrics."
        assert note in found.notes
        kept = tuple(row for row in bench.manifest if row not in lost)
        expected = bench.evaluate(kept, pixel_grid=grid)
        for name, estimate in found.pixel.items():
            assert estimate.value == pytest.approx(expected.pixel[name].value)
        assert found.image == honest.image
        assert sum(stratum.positives for stratum in found.by_size.values()) == 11

    def test_empty_masks_only(self, bench, tmp_path):
        rows = []
        for row in bench.manifest:
            if row.label:
                blank = np.asarray(Image.open(row.mask)) * 0
                row = replace(row, mask=save_image(tmp_path / f"{row.path.stem}.png", blank))
            rows.append(row)
        found = bench.evaluate(tuple(rows))
        assert all(e.value is None and e.why for e in found.pixel.values())
        assert found.image["auroc"].value is not None

    def test_no_test_split(self, bench):
        rows = tuple(replace(row, split="train") for row in bench.manifest)
        message = r"Brain: expected a test split .* found none .*; add test/good .* or use predict"
        with pytest.raises(DataError, match=message):
            bench.evaluate(rows)

    def test_no_label(self, bench):
        rows = tuple(replace(row, label=None) for row in bench.manifest)
        with pytest.raises(DataError, match=r"no test image has a label; use predict instead"):
            bench.evaluate(rows)

    def test_some_labels_are_missing(self, bench):
        unknown = bench.rows(label=False)[:2]
        rows = tuple(replace(r, label=None) if r in unknown else r for r in bench.manifest)
        told: list[tuple[int, int]] = []
        found = bench.evaluate(rows, progress=lambda done, total: told.append((done, total)))
        assert told == [(done, 26) for done in range(1, 27)], "nobody waits for what is left out"
        assert "2 test images without a label were left out." in found.notes
        kept = bench.evaluate(tuple(row for row in bench.manifest if row not in unknown))
        assert (found.image, found.pixel, found.rows) == (kept.image, kept.pixel, kept.rows)
        assert found.splits["scored"] == "test: 12 normal and 14 abnormal images"

    def test_only_the_test_split_is_scored(self, bench, honest):
        rows = tuple(
            replace(row, id=f"train/{row.id}", split="train", patient=f"other {row.patient}")
            for row in bench.manifest
        )
        found = bench.evaluate((*bench.manifest.rows, *rows))
        assert found.rows == honest.rows

    def test_a_score_that_is_nan_is_refused(self, bench, monkeypatch):
        """It has no rank: counting it as healthy would hide a broken model."""
        plain = Brightness.predict

        def broken(self, batch: Batch) -> Prediction:
            prediction = plain(self, batch)
            prediction.score[3] = float("nan")
            return prediction

        monkeypatch.setattr(Brightness, "predict", broken)
        with pytest.raises(DataError, match=rf"{bench.manifest.rows[3].path}: its score is not fi"):
            bench.evaluate()


class TestNotes:
    """Everything a reader must know before trusting the numbers."""

    def test_unknown_patients(self, bench):
        rows = tuple(replace(row, patient=None) for row in bench.manifest)
        found = bench.evaluate(rows)
        assert found.resampled == "images (patients are unknown)"
        assert found.notes == (
            "Patients are unknown: intervals resample single images and are too narrow.",
        )

    def test_patients_in_two_splits(self, bench):
        trained = tuple(
            replace(row, id=f"t/{row.id}", split="train") for row in bench.rows(label=False)[:4]
        )
        found = bench.evaluate((*bench.manifest.rows, *trained))
        assert "2 patients occur in both train and test: results are too good." in found.notes

    def test_no_calibration(self, bench):
        bare = Bench(replace(bench.fitted, calibration=None), bench.manifest)
        found = bare.evaluate()
        assert "Not calibrated: scores have no p-value and nothing is flagged." in found.notes
        assert {(row.p_value, row.flagged) for row in found.rows} == {(None, None)}
        assert (found.threshold, found.false_alarm_rate) == (None, None)
        assert {panel.kind for panel in found.panels} == set(PANEL_KINDS)

    def test_too_few_healthy_images(self, bench):
        strict = replace(bench.fitted.calibration, false_alarm_rate=0.01)
        found = Bench(replace(bench.fitted, calibration=strict), bench.manifest).evaluate()
        assert found.threshold is None
        assert not any(row.flagged for row in found.rows)
        assert (
            "9 healthy images are too few to flag anything at a false-alarm rate of 0.01."
            in found.notes
        )


def test_a_fitted_run_finds_bright_spots(tiny):
    """The whole way with a real detector."""
    found = evaluate(tiny.fitted, tiny.manifest)
    assert found.image["auroc"].value > 0.9
    assert found.pixel["auroc"].value > 0.8
    assert found.pixel_grid == "model 32x32"
    assert found.weights == ("resnet18.a1_in1k: Apache-2.0",)
    scored = {"scored": "test: 6 normal and 4 abnormal images"}
    assert found.splits == {**tiny.fitted.splits, **scored}
