"""A fitted detector on files and arrays: the same answer by every way in, on the input's grid."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import scanomaly
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.images import read_image
from scanomaly.data.manifest import Manifest, Row
from scanomaly.data.transform import prepare
from scanomaly.errors import CheckpointError, DataError
from scanomaly.inference import BATCH, BATCHES_AHEAD, FittedDetector, load
from scanomaly.records import Batch, Prediction
from tiny_runs import HEIGHT, WIDTH, save_image, slice_pixels


def rows_of(*paths: Path) -> Manifest:
    return Manifest(tuple(Row(path.stem, path) for path in paths), "files", "tests")


@pytest.fixture
def fitted(tiny) -> FittedDetector:
    return tiny.fitted


class TestWaysIn:
    """Path, text, array and manifest."""

    def test_the_same_image_gets_the_same_answer(self, tiny, fitted):
        by_path = fitted.score(tiny.scan)
        pixels = read_image(tiny.scan)
        grey = pixels[..., 0]
        for other in (str(tiny.scan), pixels, grey, grey[..., None], np.dstack([pixels, grey])):
            found = fitted.score(other)
            assert found.score == by_path.score
            assert np.array_equal(found.anomaly_map, by_path.anomaly_map)
            assert np.array_equal(found.reconstruction, by_path.reconstruction)
            assert (found.p_value, found.flagged) == (by_path.p_value, by_path.flagged)

    def test_a_manifest_gives_every_image_in_order(self, tiny, fitted):
        test = tiny.manifest.split("test")
        found = list(fitted.score_rows(test))
        assert [one.row for one in found] == list(test)
        for one in found:
            alone = fitted.score(one.row.path)
            assert one.score == pytest.approx(alone.score, rel=1e-5)
            whole = fitted.finding(one)
            assert whole.id == one.row.id
            assert whole.anomaly_map == pytest.approx(alone.anomaly_map, rel=1e-4, abs=1e-6)

    def test_it_is_what_the_detector_says_of_the_prepared_image(self, tiny, fitted):
        pixels = read_image(tiny.scan)
        tensor, geometry = prepare(pixels, fitted.detector.input_spec)
        prediction = fitted.detector.predict(Batch(tensor[None], ("x",)))
        found = fitted.score(tiny.scan)
        assert found.score == prediction.score.item()
        expected = geometry.to_input_grid(prediction.anomaly_map[0, 0].numpy())
        assert np.array_equal(found.anomaly_map, expected)

    def test_floats_in_0_to_1_are_nearly_the_same_picture(self, tiny, fitted):
        floats = read_image(tiny.scan).astype(np.float32) / 255
        assert fitted.score(floats).score == pytest.approx(fitted.score(tiny.scan).score, rel=0.02)

    def test_more_images_than_a_batch(self, tiny, fitted):
        many = rows_of(*[tiny.scan] * (BATCH + 3))
        scores = [one.score for one in fitted.score_rows(many)]
        assert len(scores) == BATCH + 3
        assert scores == pytest.approx([fitted.score(tiny.scan).score] * len(scores), rel=1e-5)

    def test_a_folder_of_one_image_is_that_image(self, tiny, fitted, tmp_path):
        save_image(tmp_path / "only" / "scan.png", slice_pixels(5)[0])
        assert fitted.score(tmp_path / "only").id == "scan"

    def test_a_folder_of_several_is_refused(self, tiny, fitted):
        folder = tiny.data / "test" / "good"
        message = rf"found a folder of 6; give one of them, such as {folder}/img/\S+\.png\.$"
        with pytest.raises(DataError, match=message):
            fitted.score(folder)

    def test_no_image_at_all(self, fitted):
        assert list(fitted.score_rows(Manifest((), "none", "tests"))) == []


class TestGrid:
    """Maps and reconstructions lie on the pixel grid of the input."""

    @pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (20, 61), (90, 33), (32, 32)])
    def test_of_any_size(self, fitted, size):
        pixels = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
        found = fitted.score(pixels)
        assert found.anomaly_map.shape == size
        assert found.anomaly_map.dtype == np.float32
        assert found.reconstruction.shape == (*size, 3)
        assert found.reconstruction.dtype == np.uint8

    def test_what_is_wide_stays_wide(self, tiny, fitted, monkeypatch):
        """A map that is bright where the image is, comes back where the image is bright."""

        def bright(batch: Batch) -> Prediction:
            grey = batch.image[:, :1]
            return Prediction(grey.amax(dim=(1, 2, 3)), grey, batch.image)

        monkeypatch.setattr(fitted.detector, "predict", bright)
        pixels = np.zeros((24, 96), np.uint8)
        pixels[:8, 72:] = 255
        found = fitted.score(pixels)
        assert found.anomaly_map[:6, 78:].min() > 0.9
        assert found.anomaly_map[12:].max() < 0.1
        assert found.anomaly_map[:, :66].max() < 0.1
        assert found.reconstruction[:6, 78:].min() > 230
        assert found.reconstruction[12:].max() < 25

    def test_masks_come_on_the_models_grid_when_asked(self, tiny, fitted):
        test = tiny.manifest.split("test")
        side = fitted.detector.input_spec.side
        for one in fitted.score_rows(test, with_masks=True):
            assert one.mask.shape == (side, side)
            assert one.mask.any() == one.row.label
        assert all(one.mask is None for one in fitted.score_rows(test))


class TestMeaning:
    """p-value, flag and the scaled map."""

    def test_without_calibration_there_is_neither(self, tiny, fitted):
        bare = replace(fitted, calibration=None)
        found = bare.score(tiny.scan)
        assert (found.p_value, found.flagged) == (None, None)
        scaled = bare.scaled(found.anomaly_map)
        assert (scaled.min(), scaled.max()) == (0, 1)

    def test_a_score_is_ranked_among_the_healthy(self, tiny, fitted):
        found = fitted.score(tiny.scan)
        assert found.p_value == 1 / 7, "above all six healthy images"
        assert found.flagged is True

    def test_the_scale_of_maps_is_the_same_for_every_image(self, fitted):
        low, high = fitted.calibration.map_range
        values = np.array([[low, high, 2 * high - low]], np.float32)
        assert fitted.scaled(values) == pytest.approx(np.array([[0, 1, 2]]), abs=1e-5)

    def test_a_constant_map_without_calibration_is_no_division_by_zero(self, fitted):
        bare = replace(fitted, calibration=None)
        assert np.array_equal(bare.scaled(np.full((3, 3), 7, np.float32)), np.zeros((3, 3)))

    def test_the_licences_of_the_weights(self, fitted):
        assert fitted.weights == ("resnet18.a1_in1k: Apache-2.0",)


class TestBadInput:
    """One line that names the file or the array, and the remedy."""

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.full((20, 20), np.nan), r"array: expected finite values, got 400 that are NaN"),
            (np.full((20, 20), np.inf), r"array: expected finite values, got 400 that are NaN or inf"),  # noqa: E501
            (np.zeros((20, 20, 2)), r"array: expected .* shape \(H, W\), .* got \(20, 20, 2\)"),
            (np.zeros((3, 20, 20)), r"got \(3, 20, 20\); move the channels last with numpy\.moveaxis"),  # noqa: E501
            (np.zeros((2, 20, 20, 3)), r"got \(2, 20, 20, 3\); give one image at a time"),
            (np.zeros((1, 1), np.uint8), r"array: expected at least 8x8 pixels, got 1x1"),
            (np.full((20, 20), 300, np.uint16), r"array: has uint16 .* expected 8 bits, or .*window"),  # noqa: E501
            (np.full((20, 20), -1.0), r"array: has float64 intensities from -1 to -1; expected"),
            (np.full((20, 20), "x"), r"array: expected numbers, got dtype <U1"),
        ],
    )  # fmt: skip
    def test_arrays(self, fitted, array, message):
        with pytest.raises(DataError, match=message):
            fitted.score(array)

    def test_a_truncated_file(self, tiny, fitted, tmp_path):
        cut = tmp_path / "cut.png"
        cut.write_bytes(tiny.scan.read_bytes()[:200])
        with pytest.raises(DataError, match=rf"{cut}: expected an image, but it is damaged .*copy"):
            fitted.score(cut)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.png", b"", r"empty\.png: expected an image, got an empty file"),
            ("text.png", b"not an image", r"text\.png: expected an image, but it is damaged"),
            ("scan.txt", b"x", r"scan\.txt: expected a file ending in \.png, "),
        ],
    )
    def test_files(self, fitted, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            fitted.score(tmp_path / name)

    def test_one_pixel(self, fitted, tmp_path):
        file = save_image(tmp_path / "dot.png", np.zeros((1, 1), np.uint8))
        with pytest.raises(DataError, match=r"dot\.png: expected at least 8x8 pixels, got 1x1"):
            fitted.score(file)

    def test_a_missing_file(self, fitted, tmp_path):
        with pytest.raises(DataError, match=r"gone\.png: expected an image or a folder, found no"):
            fitted.score(tmp_path / "gone.png")

    def test_an_empty_folder(self, fitted, tmp_path):
        with pytest.raises(DataError, match=rf"{tmp_path}: expected images .*found no files"):
            fitted.score(tmp_path)

    def test_sixteen_bits_without_a_window(self, fitted, tmp_path):
        file = save_image(tmp_path / "deep.png", np.arange(400, dtype=np.uint16).reshape(20, 20))
        with pytest.raises(DataError, match=r"deep\.png: has uint16 intensities from 0 to 399"):
            fitted.score(file)

    @pytest.mark.parametrize("value", [0, 255])
    def test_an_image_of_one_colour_is_scored_and_said(self, fitted, tmp_path, caplog, value):
        file = save_image(tmp_path / f"flat{value}.png", np.full((HEIGHT, WIDTH), value, np.uint8))
        found = fitted.score(file)
        assert np.isfinite(found.score)
        assert np.isfinite(found.anomaly_map).all()
        assert f"flat{value}.png: every pixel is {value}; its score means little" in caplog.text

    def test_the_first_bad_row_stops_unless_somebody_listens(self, tiny, fitted, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"bad")
        rows = rows_of(tiny.scan, tmp_path / "bad.png", *[tiny.scan] * BATCH)
        with pytest.raises(DataError, match=r"bad\.png: expected an image"):
            list(fitted.score_rows(rows))
        heard: list[tuple[str, str]] = []
        found = list(fitted.score_rows(rows, on_error=lambda r, e: heard.append((r.id, str(e)))))
        assert len(found) == BATCH + 1
        assert [name for name, _ in heard] == ["bad"]
        assert "bad.png: expected an image" in heard[0][1]

    def test_a_batch_of_nothing_but_bad_images(self, fitted, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"bad")
        heard: list[Row] = []
        rows = rows_of(*[tmp_path / "bad.png"] * (BATCH + 1))
        assert list(fitted.score_rows(rows, on_error=lambda r, _: heard.append(r))) == []
        assert len(heard) == BATCH + 1

    def test_a_score_that_is_not_finite_costs_no_other_image(self, tiny, fitted, monkeypatch):
        plain = fitted.detector.predict

        def overflowing(batch: Batch) -> Prediction:
            prediction = plain(batch)
            prediction.score[0] = float("nan")
            return prediction

        monkeypatch.setattr(fitted.detector, "predict", overflowing)
        message = rf"{tiny.scan}: its score is not finite; .*--precision fp32"
        with pytest.raises(DataError, match=message):
            fitted.score(tiny.scan)
        with pytest.raises(DataError, match="array: its score is not finite"):
            fitted.score(read_image(tiny.scan))
        test = tiny.manifest.split("test")
        heard: list[Row] = []
        found = list(fitted.score_rows(test, on_error=lambda row, _: heard.append(row)))
        assert heard == [test.rows[0]]
        assert [one.row for one in found] == list(test.rows[1:])

    def test_a_mask_of_another_size_is_named(self, tiny, fitted, tmp_path):
        mask = save_image(tmp_path / "mask.png", np.zeros((5, 6), np.uint8))
        rows = Manifest((Row("a", tiny.scan, "test", True, mask),), "x", "tests")
        message = rf"{mask}: the mask has 5x6 pixels .*{tiny.scan.name} has {HEIGHT}x{WIDTH}"
        with pytest.raises(DataError, match=message):
            list(fitted.score_rows(rows, with_masks=True))
        assert len(list(fitted.score_rows(rows))) == 1


class TestDecodingAhead:
    """The next batches are decoded while the detector computes, and no more than these."""

    @pytest.fixture
    def decoded(self, monkeypatch) -> list[int]:
        """Indices of what was decoded so far."""
        plain, seen = ImageDataset.__getitem__, []

        def spy(self, draw):
            seen.append(draw)
            return plain(self, draw)

        monkeypatch.setattr(ImageDataset, "__getitem__", spy)
        return seen

    def test_while_the_detector_computes(self, tiny, fitted, monkeypatch, decoded):
        plain = fitted.detector.predict

        def waits(batch: Batch) -> Prediction:
            patience = time.monotonic() + 60
            while len(decoded) < 3 * BATCH and time.monotonic() < patience:
                time.sleep(0.001)
            return plain(batch)

        monkeypatch.setattr(fitted.detector, "predict", waits)
        rows = rows_of(*[tiny.scan] * (5 * BATCH))
        scored = fitted.score_rows(rows)
        next(scored)
        assert len(decoded) == (1 + BATCHES_AHEAD) * BATCH, "not the whole manifest"
        scored.close()
        assert len(decoded) == (1 + BATCHES_AHEAD) * BATCH

    def test_any_number_of_threads_gives_the_same(self, tiny, fitted):
        rows = rows_of(*[row.path for row in tiny.manifest] * 2)
        first, second = (list(fitted.score_rows(rows, decoders=count)) for count in (1, 7))
        assert [one.row for one in first] == [one.row for one in second] == list(rows)
        assert [one.score for one in first] == [one.score for one in second]

    def test_a_decoders_surprise_costs_no_other_image(self, tiny, fitted, monkeypatch):
        plain = ImageDataset.__getitem__

        def surprised(self, draw):
            if draw == 1:
                raise KeyError("chunk")
            return plain(self, draw)

        monkeypatch.setattr(ImageDataset, "__getitem__", surprised)
        rows = rows_of(*[tiny.scan] * 3)
        heard: list[str] = []
        found = list(fitted.score_rows(rows, on_error=lambda _, error: heard.append(str(error))))
        assert len(found) == 2
        assert heard == [
            f"{tiny.scan}: could not be decoded (KeyError: 'chunk'); copy or export it again, or "
            "remove it."
        ]
        with pytest.raises(DataError, match="could not be decoded") as raised:
            list(fitted.score_rows(rows))
        assert isinstance(raised.value.__cause__, KeyError), "--debug shows where"


class TestLoading:
    """scanomaly.load and devices."""

    @pytest.mark.parametrize("given", [str, Path])
    def test_the_public_way(self, tiny, given):
        detector = scanomaly.load(given(tiny.folder), device="cpu")
        assert isinstance(detector, scanomaly.FittedDetector)
        assert detector.run == tiny.run
        assert detector.calibration == tiny.fitted.calibration
        found = detector.score(str(tiny.scan))
        assert isinstance(found, scanomaly.Finding)
        assert found.score == tiny.fitted.score(tiny.scan).score

    def test_without_training_record_and_calibration(self, tiny, run_copy):
        (run_copy / "training.json").unlink()
        (run_copy / "calibration.json").unlink()
        bare = load(run_copy)
        assert bare.calibration is None
        assert bare.splits == {}
        assert bare.score(tiny.scan).p_value is None

    def test_half_precision_is_near(self, tiny):
        exact = tiny.fitted.score(tiny.scan).score
        half = load(tiny.folder, precision="bf16").score(tiny.scan).score
        assert half == pytest.approx(exact, rel=0.05)
        assert half != exact

    @pytest.mark.parametrize("name", ["cuda:99", "toaster", ""])
    def test_a_device_that_is_not_here(self, tiny, name):
        with pytest.raises(
            DataError, match=rf"device '{name}' cannot be used here \(.+\); try cpu"
        ):
            load(tiny.folder, device=name)

    def test_no_run_folder(self, tmp_path):
        with pytest.raises(
            CheckpointError, match=r"expected a run folder with run\.yaml, found no"
        ):
            scanomaly.load(tmp_path / "nothing")
