"""What `predict` writes of files: scores, maps and pictures on each file's own grid."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scanomaly.errors import DataError
from scanomaly.files import DiskError
from scanomaly.inference import BATCH, FittedDetector
from scanomaly.methods.reconstruction import ReconstructionDetector
from scanomaly.prediction import overlaid, predict_files
from scanomaly.records import Batch, Prediction
from tiny_runs import HEIGHT, WIDTH, save_image, slice_pixels

SIZES = {"a/scan": (HEIGHT, WIDTH), "b/scan": (33, 90), "c": (64, 20)}
"""Ids of the images in `folder`, and their (H, W)."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of several sizes, two of the same name."""
    for seed, (name, size) in enumerate(SIZES.items()):
        pixels = Image.fromarray(slice_pixels(seed, True)[0]).resize(size[::-1])
        save_image(tmp_path / "in" / f"{name}.png", np.asarray(pixels))
    return tmp_path / "in"


def lines_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as opened:
        return np.asarray(opened)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class TestFiles:
    """One line and three files for every image."""

    def test_every_image_has_its_files_and_nothing_else_is_there(self, tiny, folder, tmp_path):
        assert predict_files(tiny.fitted, [folder], tmp_path / "out") == []
        assert files_below(tmp_path / "out") == {
            "predictions.csv",
            *(f"maps/{name}.npy" for name in SIZES),
            *(f"overlays/{name}.png" for name in SIZES),
            *(f"reconstructions/{name}.png" for name in SIZES),
        }

    def test_the_table_says_what_score_says(self, tiny, folder, tmp_path):
        predict_files(tiny.fitted, [folder], tmp_path / "out")
        text = (tmp_path / "out" / "predictions.csv").read_text()
        assert text.splitlines()[0] == "id,patient,label,score,p_value,flagged"
        assert "\r" not in text
        lines = lines_of(tmp_path / "out")
        assert [line["id"] for line in lines] == sorted(SIZES)
        for line in lines:
            alone = tiny.fitted.score(folder / f"{line['id']}.png")
            assert float(line["score"]) == pytest.approx(alone.score, rel=1e-5)
            assert float(line["p_value"]) == pytest.approx(alone.p_value, rel=1e-5)
            assert line["flagged"] == str(int(alone.flagged))
            assert (line["patient"], line["label"]) == ("", "")

    def test_maps_and_pictures_lie_on_the_files_own_grid(self, tiny, folder, tmp_path):
        out = tmp_path / "out"
        predict_files(tiny.fitted, [folder], out)
        for name, size in SIZES.items():
            found = np.load(out / "maps" / f"{name}.npy", allow_pickle=False)
            alone = tiny.fitted.score(folder / f"{name}.png")
            assert (found.dtype, found.shape) == (np.float32, size)
            assert found == pytest.approx(alone.anomaly_map, rel=1e-4, abs=1e-6)
            drawn = picture(out / "reconstructions" / f"{name}.png").astype(int)
            assert np.abs(drawn - alone.reconstruction).max() <= 1
            assert picture(out / "overlays" / f"{name}.png").shape == (*size, 3)

    def test_files_and_folders_are_counted_once(self, tiny, folder, tmp_path):
        told: list[tuple[int, int]] = []
        predict_files(
            tiny.fitted,
            [folder, folder / "c.png", folder / "a"],
            tmp_path / "out",
            progress=lambda done, total: told.append((done, total)),
        )
        assert told == [(1, 3), (2, 3), (3, 3)]
        assert len(lines_of(tmp_path / "out")) == 3

    @pytest.mark.parametrize("place", ["out", "."])
    def test_its_own_pictures_are_no_input_the_second_time(self, tiny, folder, place):
        for _ in range(2):
            predict_files(tiny.fitted, [folder], folder / place)
            assert [line["id"] for line in lines_of(folder / place)] == sorted(SIZES)

    def test_without_calibration_the_score_stands_alone(self, tiny, folder, tmp_path):
        predict_files(replace(tiny.fitted, calibration=None), [folder], tmp_path / "out")
        assert {(line["p_value"], line["flagged"]) for line in lines_of(tmp_path / "out")} == {
            ("", "")
        }

    def test_a_method_that_does_not_reconstruct(self, tiny, folder, tmp_path, monkeypatch):
        def bright(self, batch: Batch) -> Prediction:
            return Prediction(batch.image.mean(dim=(1, 2, 3)), batch.image[:, :1])

        monkeypatch.setattr(ReconstructionDetector, "predict", bright)
        predict_files(tiny.fitted, [folder], tmp_path / "out")
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            "predictions.csv",
            "maps",
            "overlays",
        }


class TestDeepImages:
    """16 bits go through the window of the run, for the score and for the picture."""

    WINDOW = (0.0, 25_500.0)

    def fitted(self, tiny) -> FittedDetector:
        data = tiny.run.data.model_copy(update={"window": self.WINDOW})
        return replace(tiny.fitted, run=tiny.run.model_copy(update={"data": data}))

    def test_they_score_like_their_8_bit_twins(self, tiny, tmp_path):
        pixels = slice_pixels(3, True)[0]
        save_image(tmp_path / "in" / "shallow.png", pixels)
        save_image(tmp_path / "in" / "deep.png", pixels.astype(np.uint16) * 100)
        out = tmp_path / "out"
        assert predict_files(self.fitted(tiny), [tmp_path / "in"], out) == []
        deep, shallow = lines_of(out)
        assert float(deep["score"]) == pytest.approx(float(shallow["score"]), rel=0.02)
        overlays = [picture(out / "overlays" / f"{name}.png") for name in ("deep", "shallow")]
        assert np.abs(overlays[0].astype(int) - overlays[1]).mean() < 1

    def test_without_a_window_the_remedy_is_named(self, tiny, tmp_path):
        file = save_image(tmp_path / "deep.png", slice_pixels(3)[0].astype(np.uint16) * 100)
        (message,) = predict_files(tiny.fitted, [file], tmp_path / "out")
        assert message.startswith(f"{file}: has uint16 intensities from 0 to ")
        assert "--set data.window=[LOW,HIGH]" in message


class TestBrokenFiles:
    """Nothing that can be scored is lost."""

    def test_the_others_are_written_and_the_broken_ones_named(self, tiny, folder, tmp_path):
        good = (folder / "c.png").read_bytes()
        (folder / "cut.png").write_bytes(good[:60])
        (folder / "a" / "empty.png").write_bytes(b"")
        told: list[tuple[int, int]] = []
        failed = predict_files(
            tiny.fitted,
            [folder],
            tmp_path / "out",
            progress=lambda done, total: told.append((done, total)),
        )
        assert [message.split(":")[0] for message in failed] == [
            str(folder / "a" / "empty.png"),
            str(folder / "cut.png"),
        ]
        assert [line["id"] for line in lines_of(tmp_path / "out")] == sorted(SIZES)
        assert len(files_below(tmp_path / "out")) == 1 + 3 * len(SIZES)
        assert told[-1] == (5, 5)

    def test_nothing_but_broken_files(self, tiny, tmp_path):
        for index in range(BATCH + 1):
            (tmp_path / f"{index}.png").write_bytes(b"bad")
        failed = predict_files(tiny.fitted, [tmp_path], tmp_path / "out")
        assert len(failed) == BATCH + 1
        assert lines_of(tmp_path / "out") == []

    def test_a_score_that_is_not_finite_is_a_broken_file(self, tiny, folder, tmp_path, monkeypatch):
        plain = ReconstructionDetector.predict

        def overflowing(self, batch: Batch) -> Prediction:
            prediction = plain(self, batch)
            prediction.score[1] = float("nan")
            return prediction

        monkeypatch.setattr(ReconstructionDetector, "predict", overflowing)
        (message,) = predict_files(tiny.fitted, [folder], tmp_path / "out")
        assert message.startswith(f"{folder}/b/scan.png: its score is not finite")
        assert [line["id"] for line in lines_of(tmp_path / "out")] == ["a/scan", "c"]

    def test_a_full_disk_names_the_file(self, tiny, folder, tmp_path):
        (tmp_path / "out").write_text("a file")
        with pytest.raises(DiskError, match=r"out/maps/a/scan\.npy could not be written"):
            predict_files(tiny.fitted, [folder], tmp_path / "out")

    def test_a_missing_input_stops_before_anything_is_written(self, tiny, folder, tmp_path):
        with pytest.raises(DataError, match=r"gone: expected an image or a folder, found nothing"):
            predict_files(tiny.fitted, [folder, tmp_path / "gone"], tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestOverlay:
    """Colour where something was found, the image itself elsewhere."""

    def test_healthy_pixels_stay_themselves(self):
        image = np.full((4, 5, 3), 100, np.uint8)
        scaled = np.zeros((4, 5), np.float32)
        scaled[0, 0], scaled[1, 1] = 1, -3
        overlay = overlaid(image, scaled)
        assert (overlay.dtype, overlay.shape) == (np.uint8, (4, 5, 3))
        assert (overlay[0, 0] != 100).any()
        assert (overlay.reshape(-1, 3)[1:] == 100).all()

    def test_more_anomalous_is_more_opaque_up_to_the_calibrated_range(self):
        image = np.zeros((1, 4, 3), np.uint8)
        strong = (
            overlaid(image, np.array([[0.2, 0.6, 1.0, 7.0]], np.float32)).astype(int).sum(-1)[0]
        )
        assert list(np.diff(strong) > 0) == [True, True, False]
        assert strong[3] == strong[2]

    def test_floats_are_drawn_like_bytes(self):
        pixels = slice_pixels(1)[0]
        image = np.repeat(pixels[..., None], 3, axis=2)
        scaled = np.linspace(0, 1, pixels.size, dtype=np.float32).reshape(pixels.shape)
        assert np.array_equal(overlaid(image, scaled), overlaid(image / np.float32(255), scaled))
