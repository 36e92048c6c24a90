"""Run x data set -> run folder: who trains, who calibrates, and what is recorded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scanomaly.config.fit import FitOptions
from scanomaly.config.run import load_run
from scanomaly.data.dataset import ImageDataset, collate
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.errors import DataError
from scanomaly.fitting import TRAINED_ON, assign_roles, fit
from scanomaly.inference import load
from scanomaly.presets import preset
from scanomaly.run_folder import load_training
from tiny_runs import state_of, write_set

FEW = {("train", "good"): 4, ("valid", "good"): 2}


def without_valid(manifest: Manifest) -> Manifest:
    return replace(manifest, rows=tuple(row for row in manifest if row.split != "valid"))


class TestRoles:
    """Which images do what."""

    def test_valid_normals_calibrate_and_all_train_normals_train(self, tiny):
        roles = assign_roles(tiny.run, tiny.manifest)
        assert {row.split for row in roles.train} == {"train"}
        assert {(row.split, row.label) for row in roles.healthy} == {("valid", False)}
        assert (len(roles.train), len(roles.healthy)) == (10, 6)
        assert roles.source == "valid: 6 healthy images"

    def test_without_valid_some_patients_are_held_out(self, tiny):
        run = tiny.run.with_overrides(["data.calibration_share=0.4"])
        roles = assign_roles(run, without_valid(tiny.manifest))
        assert (len(roles.train), len(roles.healthy)) == (6, 4)
        assert {row.patient for row in roles.train}.isdisjoint(row.patient for row in roles.healthy)
        assert {row.split for row in roles.healthy} == {"train"}
        assert roles.source == "4 healthy images held out of train, patient by patient"
        assert assign_roles(run, without_valid(tiny.manifest)) == roles

    def test_the_seed_draws_the_patients(self, tiny):
        manifest = without_valid(tiny.manifest)
        drawn = {
            assign_roles(tiny.run.with_overrides([f"fit.seed={seed}"]), manifest).healthy.rows
            for seed in range(10)
        }
        assert len(drawn) > 1

    def test_abnormal_valid_images_do_nothing(self, tiny):
        rows = tuple(row for row in tiny.manifest if not (row.split == "valid" and not row.label))
        roles = assign_roles(tiny.run, replace(tiny.manifest, rows=rows))
        assert {row.split for row in roles.healthy} == {"train"}
        assert not any(row.label for row in (*roles.train, *roles.healthy))

    def test_nothing_may_be_held_out(self, tiny):
        run = tiny.run.with_overrides(["data.calibration_share=0"])
        roles = assign_roles(run, without_valid(tiny.manifest))
        assert (len(roles.train), len(roles.healthy)) == (10, 0)
        assert roles.source == "nothing: no healthy image was held out"

    @pytest.mark.parametrize("with_valid", [True, False])
    def test_the_paper_trains_on_all_and_calibrates_on_nothing(self, tiny, with_valid):
        run = tiny.run.model_copy(update={"protocol": "paper"})
        manifest = tiny.manifest if with_valid else without_valid(tiny.manifest)
        roles = assign_roles(run, manifest)
        assert roles.train == manifest.training()
        assert roles.healthy.rows == ()
        assert roles.source == "nothing: the published protocol trains on all"

    def test_test_images_have_no_part(self, tiny):
        for manifest in (tiny.manifest, without_valid(tiny.manifest)):
            roles = assign_roles(tiny.run, manifest)
            assert not any(row.split == "test" for row in (*roles.train, *roles.healthy))

    def test_no_normal_training_image(self, tiny):
        with pytest.raises(DataError, match=r"Brain: expected normal training images, found none"):
            assign_roles(tiny.run, tiny.manifest.split("test"))

    def test_a_single_patient_cannot_be_divided(self, tiny):
        rows = tuple(row for row in tiny.manifest if row.patient == "traingood0")
        with pytest.raises(DataError, match=r"at least two patients .* data\.calibration_share=0"):
            assign_roles(tiny.run, replace(tiny.manifest, rows=rows))


class TestNotes:
    """What readers must know of who taught and who calibrates."""

    @pytest.mark.parametrize(
        ("preset_name", "words", "notes"),
        [
            ("mvfa-few", "each left out of the memory in turn", ()),
            ("patchcore", "each left out of the memory in turn", ()),
            ("clip-prompts", "of which nothing was learned", ()),
            ("iqe-few", "which were trained on", (TRAINED_ON,)),
        ],
    )
    def test_only_a_memory_leaves_an_image_out(self, tiny, preset_name, words, notes):
        few = ["data.supervision=few_shot", "data.shots=2", "data.support=seed:7"]
        roles = assign_roles(preset(preset_name).with_overrides(few), tiny.manifest)
        assert roles.source == f"the 2 healthy images of the support, {words}"
        assert roles.notes == notes

    def test_masks_that_are_not_there(self, tiny):
        rows = tuple(replace(row, mask=None) for row in tiny.manifest)
        few = ["data.shots=2", "data.support=seed:7"]
        run = preset("mvfa-few").with_overrides(few)
        (note,) = assign_roles(run, Manifest(rows, "Liver", "by hand")).notes
        assert note.startswith("Liver: this set was published with masks and none was found")
        assert assign_roles(run, Manifest(rows, "Chest", "by hand")).notes == ()


class TestRecord:
    """What the run folder says of its making."""

    def test_the_run_and_its_record(self, tiny):
        assert load_run(tiny.folder) == tiny.run
        record = load_training(tiny.folder)
        assert record.trained_on == "train: 10 normal images of Brain"
        assert record.calibrated_on == "valid: 6 healthy images"
        assert (record.checkpoint, record.warm_start) == ("last epoch", "none")
        assert record.steps == 4
        assert len(record.train_loss) == 2
        assert record.images == {"train": 10, "healthy": 6}

    def test_the_returned_detector_is_what_load_gives(self, tiny):
        loaded = load(tiny.folder)
        assert loaded.calibration == tiny.fitted.calibration
        assert loaded.splits == tiny.fitted.splits
        assert loaded.score(tiny.scan).score == tiny.fitted.score(tiny.scan).score

    def test_calibration_ranks_the_held_out_images(self, tiny):
        healthy = assign_roles(tiny.run, tiny.manifest).healthy
        scores = sorted(one.score for one in tiny.fitted.score_rows(healthy))
        calibration = tiny.fitted.calibration
        assert calibration.scores == pytest.approx(scores, rel=1e-5)
        assert calibration.false_alarm_rate == tiny.run.data.false_alarm_rate
        assert calibration.source == "valid: 6 healthy images"

    def test_the_paper_protocol_leaves_no_calibration(self, tiny, tmp_path, untrained):
        run = tiny.run.model_copy(update={"protocol": "paper"})
        fitted = fit(run, tiny.manifest, tmp_path / "run")
        assert fitted.calibration is None
        assert not (tmp_path / "run" / "calibration.json").exists()
        assert load(tmp_path / "run").splits["calibrated"].startswith("nothing: the published")
        assert len(untrained[0]["train"]) == 10

    def test_too_few_healthy_images_to_flag_are_said(self, tiny, tmp_path, untrained, caplog):
        run = tiny.run.with_overrides(["data.false_alarm_rate=0.01"])
        fitted = fit(run, tiny.manifest, tmp_path / "run")
        assert "6 healthy images are too few to flag anything at a false-alarm rate of 0.01" in (
            caplog.text
        )
        assert fitted.score(tiny.scan).flagged is False
        assert 0 < fitted.score(tiny.scan).p_value <= 1

    def test_patients_in_two_splits_are_recorded(self, tiny, tmp_path, untrained):
        rows = tuple(
            replace(row, patient="traingood0") if row.split == "test" else row
            for row in tiny.manifest
        )
        fit(tiny.run, replace(tiny.manifest, rows=rows), tmp_path / "run")
        (note,) = load_training(tmp_path / "run").notes
        assert note == "1 patients occur in both train and test: results are too good."

    @pytest.mark.parametrize(("patience", "images"), [(None, None), (3, 6)])
    def test_validation_images_are_read_only_for_early_stopping(
        self, tiny, tmp_path, untrained, patience, images
    ):
        run = tiny.run.with_overrides([f"fit.patience={'null' if patience is None else patience}"])
        fit(run, tiny.manifest, tmp_path / "run")
        (call,) = untrained
        assert (call["validation"] and len(call["validation"])) == images


class TestSeed:
    """Same seed, same numbers, whatever was drawn before."""

    def test_the_weights_start_from_the_seed(self, tiny, tmp_path, untrained):
        def start(name: str, seed: int) -> torch.Tensor:
            torch.rand(seed)
            fit(tiny.run.with_overrides([f"fit.seed={seed}"]), tiny.manifest, tmp_path / name)
            return state_of(tmp_path / name)["bottleneck.queries"]

        first, again, other = start("a", 1), start("b", 1), start("c", 2)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class TestWindow:
    """Images deeper than 8 bits."""

    @pytest.fixture
    def deep(self, tmp_path: Path) -> Path:
        return write_set(tmp_path / "Brain", FEW | {("test", "Ungood"): 2}, deep=True)

    def test_is_fitted_recorded_and_used_by_prediction(self, tiny, deep, tmp_path, untrained):
        run = tiny.run.with_overrides(["data.calibration_share=0.5"])
        fitted = fit(run, read_manifest(deep), tmp_path / "run")
        low, high = load_run(tmp_path / "run").data.window
        assert 0 <= low < 500
        assert 9_000 < high < 14_000, "healthy tissue is at most some 120 x 100"
        assert fitted.run.data.window == (low, high)

        loaded = load(tmp_path / "run")
        file = next(deep.glob("test/Ungood/img/*.png"))
        pixels = np.asarray(Image.open(file)).astype(np.float64)
        assert pixels.max() > 255
        by_hand = ((pixels - low) / (high - low)).clip(0, 1).astype(np.float32)
        assert loaded.score(file).score == pytest.approx(loaded.score(pixels).score)
        windowless = replace(loaded, run=tiny.run)
        assert loaded.score(file).score == pytest.approx(windowless.score(by_hand).score, rel=1e-4)

    def test_a_given_window_stays(self, tiny, deep, tmp_path, untrained):
        run = tiny.run.with_overrides(["data.window=[0, 65535]"])
        fit(run, read_manifest(deep), tmp_path / "run")
        assert load_run(tmp_path / "run").data.window == (0, 65535)

    def test_eight_bits_need_none(self, tiny):
        assert tiny.fitted.run.data.window is None


class TestOddData:
    """Few images, and images that say little."""

    def test_channels_without_variation_do_not_drown_the_others(self, tiny):
        """A dark corner of every training image, then one that is bright all over."""
        encoder = tiny.fitted.detector.encoders[0]
        images = ImageDataset(
            tiny.manifest.training(), tiny.fitted.detector.input_spec, tiny.run.data
        )
        tokens = encoder.tokens(collate([images[i] for i in range(len(images))]).image)
        spread = tokens.flatten(0, 1).std(dim=0)
        assert (spread < 1e-6).any(), "this test needs a channel that training never excites"
        assert encoder.scale.max() * spread.mean() == pytest.approx(1 / 0.05, rel=1e-3)
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        assert np.isfinite(tiny.fitted.score(noise).score)

    @pytest.mark.parametrize(("total", "warm_up"), [(2, 0.5), (4, 0.25), (10, 0.1), (1, 0.3)])
    def test_a_schedule_of_a_few_steps(self, total, warm_up):
        """torch divides by zero where the warm-up is exactly one step."""
        from scanomaly.training.loop import optimiser_and_schedule

        options = FitOptions(warm_up=warm_up, learning_rate=1.0)
        made = optimiser_and_schedule([torch.nn.Parameter(torch.zeros(1))], options, total)
        rates = []
        for _ in range(total):
            rates.append(made["optimizer"].param_groups[0]["lr"])
            made["optimizer"].step()
            made["lr_scheduler"]["scheduler"].step()
        assert np.isfinite(rates).all()
        assert rates[-1] < 1e-4
