"""Published detectors to run folders: golden outputs, what is made here, what does not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_parity import assert_parity
from golden_parity import weights as golden_weights
from importing.published_files import iqe_content, mvfa_content, saved
from importing.tiny_published import (
    QFAE_SIZES,
    iqe_run,
    iqe_tensors,
    mvfa_run,
    mvfa_tensors,
    qfae_run,
    qfae_tensors,
    save_golden_encoder,
    save_iqe_clip,
    save_mvfa_clip,
)
from scanomaly.backbones.weights.verification import sha256
from scanomaly.checkpoint import load_calibration, load_detector
from scanomaly.config.run import Run
from scanomaly.inference import load
from scanomaly.methods import MVFA, IqeClip
from scanomaly.methods.iqe_clip import Observation
from scanomaly.methods.prompts import ensemble
from scanomaly.run_folder import load_training
from tiny_runs import IMAGES, state_of, write_set

Import = Callable[..., Path]


@pytest.fixture
def imported(command, tmp_path) -> Import:
    """`scanomaly import METHOD FILE ...` with a run of ours; its folder."""

    def run(method: str, run: Run, file: Path, *words: object, out: str = "run") -> Path:
        (tmp_path / "as").mkdir(exist_ok=True)
        run.save(tmp_path / "as")
        words = ("--config", tmp_path / "as" / "run.yaml", *words)
        done = command("import", method, file, "--out", tmp_path / out, *words)
        assert done.code == 0, done.err
        assert f"imported: {tmp_path / out}" in done.out
        assert "note: published weights, code" in done.out, "the licence is said"
        return tmp_path / out

    return run


@pytest.fixture
def data(tmp_path) -> Path:
    return write_set(tmp_path / "Brain", {**IMAGES, ("valid", "Ungood"): 4})


class TestQfae:
    @pytest.fixture
    def made(self, golden, tmp_path) -> Callable[[str], tuple[Run, dict[str, Tensor]]]:
        """A run, and published tensors with golden values in one part."""

        def make(part: str) -> tuple[Run, dict[str, Tensor]]:
            encoder = load_file(golden("qfae_encoder.safetensors"))
            sizes = QFAE_SIZES[part]
            folder = save_golden_encoder(tmp_path / "encoder", encoder)
            run = qfae_run(sizes, folder, tmp_path / "weights")
            tensors = qfae_tensors(run, sizes)
            names = {"junction": "junction", "decoder": "decoder_rgb", "encoders.0": "encoder"}
            table = load_file(golden(f"qfae_{names[part]}.safetensors"))
            values = {f"{part}.{name}": v for name, v in golden_weights(table).items()}
            assert {n: v.shape for n, v in values.items()} == {
                n: v.shape for n, v in tensors.items() if n.startswith(f"{part}.")
            }
            return run, {**tensors, **values}

        return make

    @pytest.mark.parametrize("part", QFAE_SIZES)
    def test_golden_outputs(self, part, made, imported, golden, tmp_path):
        run, tensors = made(part)
        folder = imported("qfae", run, saved(tensors, tmp_path / "last_ckpt.pth"))
        detector: Any = load_detector(folder)[0]
        assert len(detector.fitted_state()) == sum(
            not n.startswith("encoders.0.model.") and n != "decoder.decoder_pos_embed"
            for n in tensors
        )
        with torch.no_grad():
            if part == "encoders.0":
                table = load_file(golden("qfae_encoder.safetensors"))
                (encoder,) = detector.encoders
                image = table["in.image"] * detector.std + detector.mean
                assert_parity(encoder(encoder.tokens(image)), table["out.features"])
            elif part == "junction":
                table = load_file(golden("qfae_junction.safetensors"))
                assert_parity(detector.bottleneck(table["in.context"]), table["out.z"])
            else:
                table = load_file(golden("qfae_decoder_rgb.safetensors"))
                assert_parity(detector.decoder(table["in.z"]), table["out.image"])

    def test_what_the_folder_says_and_does(self, made, imported, command, data, tmp_path):
        run, tensors = made("encoders.0")
        file = saved(tensors, tmp_path / "last_ckpt.pth")
        folder = imported("qfae", run, file, "--calibrate", data)
        record = load_training(folder)
        assert record.trained_on.startswith(
            f"not here: imported from last_ckpt.pth (sha256 {sha256(file)})"
        )
        assert "the checkpoint written last" in record.checkpoint
        assert record.calibrated_on == "valid: 6 healthy images of Brain"
        assert record.train_loss == ()
        assert len(load_calibration(folder).scores) == 6
        fitted = load(folder)
        assert fitted.run.protocol == "paper"
        assert command("evaluate", folder, "--data", data).code == 0
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["image"]["auroc"]["value"] is not None
        assert "imported from last_ckpt.pth" in (folder / "report.md").read_text()
        scan = next((data / "test" / "good" / "img").iterdir())
        assert command("predict", folder, scan, "--out", tmp_path / "found").code == 0

    def test_without_calibration_and_without_the_frozen_encoder(
        self, made, imported, data, tmp_path
    ):
        run, tensors = made("encoders.0")
        stripped = {n: v for n, v in tensors.items() if not n.startswith("encoders.0.model.")}
        folder = imported("qfae", run, saved(stripped, tmp_path / "small.pth"))
        assert load_calibration(folder) is None
        finding = load(folder).score(next((data / "test" / "good" / "img").iterdir()))
        assert (finding.p_value, finding.flagged) == (None, None)
        whole = imported("qfae", run, saved(tensors, tmp_path / "whole.pth"), out="whole")
        one, other = state_of(folder), state_of(whole)
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda t: t.update({"encoders.0.model.norm.bias": torch.ones(32)}),
                r"encoders.0.model.norm.bias differs by up to .* from the frozen values found here",
            ),
            (
                lambda t: t.update({"decoder.decoder_pos_embed": torch.zeros(1, 16, 24)}),
                r"decoder.decoder_pos_embed differs by up to 1 ",
            ),
            (
                lambda t: t.update({"junction.queries": torch.full((1, 16, 20), torch.nan)}),
                r"junction.queries holds NaN or infinity",
            ),
            (
                lambda t: [t.pop("junction.queries"), t.pop("decoder.cls_token")],
                r"2 keys missing \(decoder.cls_token, junction.queries\)",
            ),
            (
                lambda t: t.update({"extra.weight": torch.ones(1), "version": 3}),
                r"2 keys unknown \(extra.weight, version\)",
            ),
            (
                lambda t: t.update({"decoder.cls_token": torch.ones(1, 1, 9)}),
                r"decoder.cls_token expected \(1, 1, 24\), found \(1, 1, 9\)",
            ),
        ],
    )
    def test_what_does_not_fit(self, change, message, made, refused, tmp_path):
        run, tensors = made("encoders.0")
        change(tensors)
        run.save(tmp_path)
        file = saved(tensors, tmp_path / "last_ckpt.pth")
        out = tmp_path / "run"
        refused(message, "import", "qfae", file, "--config", tmp_path / "run.yaml", "--out", out)
        assert not out.exists()


class TestMvfa:
    @pytest.fixture
    def table(self, golden) -> dict[str, Tensor]:
        return load_file(golden("mvfa_image_path.safetensors"))

    def run_and_file(self, table, setting: str, tmp_path: Path) -> tuple[Run, Path]:
        run = mvfa_run(save_mvfa_clip(tmp_path / "clip", table), setting)
        content = mvfa_content(mvfa_tensors(table))
        assert content.keys() == {"seg_adapters", "det_adapters"}
        return run, saved(content, tmp_path / setting.replace("_", "-") / "Brain.pth")

    def test_golden_outputs_and_zero_shot(self, table, imported, command, data, tmp_path):
        run, file = self.run_and_file(table, "zero_shot", tmp_path)
        folder = imported("mvfa", run, file, "--dataset", "Brain_AD", "--calibrate", data)
        detector, loaded = load_detector(folder)
        assert isinstance(detector, MVFA)
        assert (loaded.data.target, loaded.config.object) == ("Brain", "Brain")
        with torch.no_grad():
            found = detector.levels(detector.first_tokens(table["in.image"]))
        for head in ("seg", "det"):
            for level in range(4):
                assert_parity(found[head][level], table[f"out.{head}{level}"], 1e-4)
        torch.testing.assert_close(detector.text_features, ensemble(detector.text, "Brain"))
        assert detector.branch_ranges.tolist() == [[0, 1], [0, 1]]
        assert "too good" in load_training(folder).checkpoint
        assert command("evaluate", folder, "--data", data, "--protocol", "paper").code == 0

    def test_a_few_shot_memory_bank_is_made_of_the_support(self, table, imported, data, tmp_path):
        run, file = self.run_and_file(table, "few_shot", tmp_path)
        folder = imported("mvfa", run, file, "--data", data, "--calibrate", data)
        detector: Any = load_detector(folder)[0]
        assert [tuple(bank.tokens.shape) for bank in detector.banks] == [(22, 17, 12)] * 4
        assert len(detector.banks[0].owner.unique()) == 2
        ranges = detector.branch_ranges
        assert (ranges[:, 1] > ranges[:, 0]).all()
        assert bool(detector.localises)
        assert len(load_calibration(folder).scores) == 2, "of the patient that is no support"
        assert any("made here from" in note for note in load_training(folder).notes)

    @pytest.mark.parametrize(
        ("setting", "words", "message"),
        [
            ("few_shot", (), "memory bank .* give --data DATA"),
            ("zero_shot", (), "give --dataset NAME"),
            ("zero_shot", ("--dataset", "Brain", "--data", "x"), "--data is the support"),
            ("zero_shot", ("--dataset", "Liver"), "data set is Brain by its path .* and Liver in"),
        ],
    )
    def test_options_that_are_needed_or_wrong(
        self, setting, words, message, table, refused, tmp_path
    ):
        run, file = self.run_and_file(table, setting, tmp_path)
        run.save(tmp_path)
        config = ("--config", tmp_path / "run.yaml", "--out", tmp_path / "run")
        refused(message, "import", "mvfa", file, *config, *words)

    def test_calibration_needs_healthy_validation_images(self, table, refused, tmp_path):
        run, file = self.run_and_file(table, "zero_shot", tmp_path)
        run.save(tmp_path)
        only_train = write_set(tmp_path / "Few", {("train", "good"): 2, ("test", "Ungood"): 2})
        words = ("--config", tmp_path / "run.yaml", "--out", tmp_path / "run")
        words = (*words, "--dataset", "Brain", "--calibrate", only_train)
        refused("healthy images in split valid that taught nothing", "import", "mvfa", file, *words)


class TestIqeClip:
    def test_golden_outputs(self, golden, imported, tmp_path):
        table = load_file(golden("iqe_pipeline.safetensors"))
        run = iqe_run(save_iqe_clip(tmp_path / "clip", table), "zero_shot")
        file = saved(iqe_content(iqe_tensors(table)), tmp_path / "Brain.pth")
        folder = imported("iqe-clip", run, file, "--dataset", "Brain")
        detector = load_detector(folder)[0]
        assert isinstance(detector, IqeClip)
        patches = tuple(table[f"in.patch{level}"][:, 1:] for level in range(4))
        with torch.no_grad():
            logits = detector.compare(Observation(table["in.image_features"], patches))
            for branch, found in logits.items():
                maps = detector.maps(found)
                for level in range(4):
                    assert_parity(maps[level, :, 1], table[f"out.map.{branch}{level}"])
            scores = detector.scored(logits)["score"]
        low, high = scores.aminmax()
        assert_parity((scores - low) / (high - low), table["out.zero.image"])
        notes = " ".join(load_training(folder).notes)
        assert "6 entries left out: a bias of keys" in notes
        assert "no licence stated" in notes

    def test_without_class_features_convolutions_are_left_out(self, golden, imported, tmp_path):
        table = load_file(golden("iqe_pipeline.safetensors"))
        run = iqe_run(save_iqe_clip(tmp_path / "clip", table), "zero_shot")
        file = saved(iqe_content(iqe_tensors(table)), tmp_path / "mine.pth")
        words = ("--dataset", "Brain", "--set", "config.prompts.condition=none")
        folder = imported("iqe-clip", run, file, *words)
        assert any("condition: none" in note for note in load_training(folder).notes)
