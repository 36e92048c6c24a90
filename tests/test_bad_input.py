"""Whatever a user may get wrong, on the command line: one line, exit code 2, nothing lost.

Full disks and Ctrl-C are in `test_cli`; NaN arrays and wrong channels in Python in
`test_inference`.
"""

import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tiny_runs import TinyRun, save_image, slice_pixels, write_set

SCAN = slice_pixels(0)[0]


def fit_words(tiny: TinyRun, out: Path, data: Path | None = None) -> list[object]:
    """Of the tiny run, once more."""
    config = tiny.folder / "run.yaml"
    return ["fit", "--config", config, "--data", data or tiny.data, "--out", out]


def five_channels(file: Path) -> None:
    """A TIFF that no library writes by accident, such as echoes stored as channels."""
    height, width = SCAN.shape
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 122), (277, 5)]
    tags += [(278, height), (279, 5 * SCAN.size)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4)
    file.write_bytes(header + SCAN.tobytes() * 5)


BAD_IMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": (
        "x.png",
        lambda file: save_image(file, SCAN) and file.write_bytes(file.read_bytes()[:200]),
        r"expected an image, but it is damaged .*; copy or export it again",
    ),
    "no bytes": ("x.png", lambda file: file.write_bytes(b""), r"got an empty file; copy it again"),
    "one pixel": (
        "x.png",
        lambda file: save_image(file, SCAN[:1, :1]),
        r"expected at least 8x8 pixels, got 1x1; remove it or give the full image",
    ),
    "NaN": (
        "x.tif",
        lambda file: save_image(file, np.full((9, 9), np.nan, np.float32)),
        r"expected finite values, got 81 that are NaN or infinite; replace them first",
    ),
    "five channels": ("x.tif", five_channels, r"not 1, 3 or 4 channels in a known image format"),
    "16 bits": (
        "x.png",
        lambda file: save_image(file, SCAN.astype(np.uint16) * 9),
        r"has uint16 intensities from 0 to \d+; expected 8 bits, .*--set data\.window=",
    ),
    "another kind": ("x.gif", lambda file: file.write_bytes(b"G"), r"expected a file ending in"),
    "missing": ("x.png", lambda file: None, r"expected an image or a folder, found nothing"),
}
"""Name -> (file, how it is made, what is said of it)."""

BAD_SETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda root: None, r"data: expected a folder or a CSV manifest, found nothing"),
    "empty": (lambda root: root.mkdir(), r"data: expected images \(png, .*\), found no files"),
    "no good": (
        lambda root: write_set(root, {("train", "Ungood"): 2}),
        r"data: expected normal training images, found none .*; put them in train/good",
    ),
    "no split": (
        lambda root: save_image(root / "good" / "x.png", SCAN),
        r"found good and Ungood folders but no split above them; give the folder",
    ),
    "unknown folder": (
        lambda root: save_image(root / "train" / "goood" / "x.png", SCAN),
        r"expected only folders named .*; found train/goood",
    ),
    "DICOM": (
        lambda root: root.mkdir() or (root / "x.dcm").write_bytes(b"DICM"),
        r"found 1 x \.dcm; DICOM and volumes are not read yet: export slices",
    ),
}


class TestBadInput:
    """A line that names the file and the remedy, exit code 2, a traceback with --debug only."""

    @pytest.mark.parametrize("case", BAD_IMAGES)
    def test_an_image(self, refused, tiny, tmp_path, case):
        name, make, message = BAD_IMAGES[case]
        make(tmp_path / name)
        message = rf"^{tmp_path}/{re.escape(name)}: .*{message}"
        refused(message, "predict", tiny.folder, tmp_path / name, "-o", tmp_path / "out")

    def test_bad_images_among_good_ones(self, command, tiny, tmp_path):
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_bytes(b"bad")
        out = tmp_path / "out"
        done = command("predict", tiny.folder, tmp_path, tiny.scan, "--out", out)
        assert (done.code, done.out) == (2, f"predictions: {out}/predictions.csv\n")
        assert "error: 2 images could not be scored:\n" in done.err
        named = [line.split(":")[0] for line in done.err.splitlines()[-2:]]
        assert named == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]
        assert (out / "predictions.csv").read_text().count("\n") == 2

    def test_an_all_black_image_is_scored_and_said(self, command, tiny, tmp_path):
        save_image(tmp_path / "black.png", SCAN * 0)
        done = command("predict", tiny.folder, tmp_path / "black.png", "-o", tmp_path / "out")
        assert done.code == 0
        assert f"{tmp_path}/black.png: every pixel is 0; its score means little" in done.err

    @pytest.mark.parametrize("case", BAD_SETS)
    def test_a_data_set(self, refused, tiny, tmp_path, case):
        make, message = BAD_SETS[case]
        make(tmp_path / "data")
        refused(message, *fit_words(tiny, tmp_path / "run", tmp_path / "data"))
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("verb", ["fit", "evaluate"])
    def test_an_image_of_a_data_set(self, command, tiny, run_copy, tmp_path, verb):
        data = shutil.copytree(tiny.data, tmp_path / "Brain")
        bad = sorted((data / {"fit": "train", "evaluate": "test"}[verb] / "good/img").iterdir())[0]
        bad.write_bytes(bad.read_bytes()[:100])
        words = ["evaluate", run_copy, "--data", data]
        done = command(*(fit_words(tiny, tmp_path / "new", data) if verb == "fit" else words))
        assert done.error.startswith(f"{bad}: expected an image, but it is damaged")

    def test_a_mask_of_another_size(self, refused, tiny, run_copy, tmp_path):
        data = shutil.copytree(tiny.data, tmp_path / "Brain")
        mask = sorted((data / "test" / "Ungood" / "label").iterdir())[0]
        save_image(mask, SCAN[:9, :9])
        message = rf"^{mask}: the mask has 9x9 pixels .* 40x48; give both the same size"
        refused(message, "evaluate", run_copy, "--data", data)

    def test_no_test_split(self, refused, tiny, run_copy, tmp_path):
        shutil.copytree(tiny.data / "train", tmp_path / "Brain" / "train")
        message = r"^Brain: expected a test split to evaluate on, found none .*; add test/good"
        refused(message, "evaluate", run_copy, "--data", tmp_path / "Brain")

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("run.yaml", (b"method: qfae", b"method: autoencoder"), r"^{file}: config\."),
            ("run.yaml", (b"format: 1", b"format: 2"), r"^{file} has format 2 .*; upgrade with"),
            ("run.yaml", (b"format: 1", b"\xff"), r"^{file} cannot be read as YAML"),
            ("model.safetensors", (b'"qfae"', b'"mvfa"'), r"^{file} holds a mvfa and .* a qfae; "),
            ("model.safetensors", (b'"1"', b'"2"'), r"^{file} has format 2 .*; upgrade with"),
            ("model.safetensors", (b"F32", b"F99"), r"^{file} is damaged .*; restore it or fit"),
            ("calibration.json", (b"{", b""), r"^{file} is damaged .*; restore it or fit again"),
            ("calibration.json", (b"format", b"colour"), r"^{file} is damaged .*; restore it"),
        ],
    )
    def test_a_checkpoint(self, refused, tiny, run_copy, tmp_path, name, change, message):
        file = run_copy / name
        content = file.read_bytes()
        assert change[0] in content
        file.write_bytes(content.replace(*change, 1))
        words = ["predict", run_copy, tiny.scan, "-o", tmp_path / "out"]
        refused(message.format(file=file), *words)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "run.yaml",
                r"^{run}: expected a run folder with run\.yaml, found none; `scanomaly fit`",
            ),
            ("model.safetensors", r"^{run}/model\.safetensors is missing: .* --resume` goes on"),
        ],
    )
    def test_half_a_checkpoint(self, refused, tiny, run_copy, tmp_path, name, message):
        (run_copy / name).unlink()
        words = ["predict", run_copy, tiny.scan, "-o", tmp_path / "out"]
        refused(message.format(run=run_copy), *words)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], r"expected a preset name or --config run\.yaml, one of the two"),
            (["qfae-brian"], r"no preset 'qfae-brian'; there are qfae-brain, "),
            (["qfae-brain", "--set", "fit.epoch=1"], r"no field 'epoch'; there are epochs, "),
            (["qfae-brain", "--set", "fit.epochs"], r"expected --set path=value, got 'fit\.ep"),
            (["qfae-brain", "--device", "toaster"], r"fit\.accelerator: Input should be 'auto', "),
            (["qfae-brain", "--dataset", "Liver"], r"expected data set 'Liver', got .* 'Brain'"),
            (["--config", "no.yaml"], r"no\.yaml: expected a run folder with run\.yaml, found no"),
        ],
    )
    def test_a_choice(self, refused, tiny, words, message):
        refused(message, "fit", *words, "--data", tiny.data)

    def test_missing_weights_say_how_to_get_them(self, refused, tiny, tmp_path, monkeypatch):
        monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path))
        monkeypatch.setattr("scanomaly.backbones.weights.places._in_hub_cache", lambda *_: None)
        words = ["fit", "qfae-brain", "--data", tiny.data, "--out", tmp_path / "run"]
        message = (
            r"weights of vit_large_patch14_reg4_dinov2\.lvd142m are not on this machine .*MB; "
            r"licence Apache-2\.0.*`scanomaly weights fetch"
        )
        refused(message, "--offline", *words)
        assert not (tmp_path / "run").exists()
