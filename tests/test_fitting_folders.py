"""Which folders `fit` may use, and what a stopped run leaves in them."""

import errno
import shutil
from pathlib import Path

import pytest
import torch

from scanomaly.config.run import load_run
from scanomaly.errors import CheckpointError, FitError, FitInterrupted, WeightsError
from scanomaly.files import DiskError
from scanomaly.fitting import fit
from scanomaly.inference import load
from scanomaly.methods.reconstruction import ReconstructionDetector
from scanomaly.run_folder import load_training
from tiny_runs import state_of, tiny_run


class TestFolder:
    """Which folders a run may be put into."""

    def test_one_that_holds_a_run_is_refused(self, tiny):
        before = state_of(tiny.folder)
        message = rf"{tiny.folder} already holds a run; add --resume to go on .* another folder"
        with pytest.raises(FitError, match=message):
            fit(tiny.run, tiny.manifest, tiny.folder)
        assert all(torch.equal(tensor, before[n]) for n, tensor in state_of(tiny.folder).items())

    @pytest.mark.parametrize("override", ["fit.epochs=9", "config.score.image=max.max"])
    def test_one_with_other_options_is_not_resumed(self, tiny, override):
        with pytest.raises(FitError, match=r"holds a run with other options; resume with .*run\.y"):
            fit(tiny.run.with_overrides([override]), tiny.manifest, tiny.folder, resume=True)
        assert load_run(tiny.folder) == tiny.run

    def test_one_that_holds_other_files_is_refused(self, tiny, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(FitError, match=r"holds other files; give a new or empty folder"):
            fit(tiny.run, tiny.manifest, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_an_empty_one_and_a_deep_new_one_are_fine(self, tiny, tmp_path, untrained):
        (tmp_path / "empty").mkdir()
        for name in ("empty", "new/deep"):
            fit(tiny.run, tiny.manifest, tmp_path / name)
            assert (tmp_path / name / "model.safetensors").is_file()

    def test_a_run_without_its_weights_claims_no_folder(self, tiny, tmp_path, untrained):
        missing = tiny_run(tmp_path / "weights")
        shutil.rmtree(tmp_path / "weights")
        with pytest.raises(WeightsError, match="does not exist"):
            fit(missing, tiny.manifest, tmp_path / "run")
        fit(tiny.run, tiny.manifest, tmp_path / "run")
        assert load_run(tmp_path / "run") == tiny.run

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_run_refused_before_its_first_step_blocks_no_other(self, tiny, tmp_path, resume):
        greedy = tiny.run.with_overrides(["fit.batch_size=64"])
        message = r"10 training items are fewer than one batch of 64; use --set fit\.batch_size=10"
        with pytest.raises(FitError, match=message):
            fit(greedy, tiny.manifest, tmp_path / "run")
        modest = tiny.run.with_overrides(["fit.batch_size=10", "fit.epochs=1"])
        fit(modest, tiny.manifest, tmp_path / "run", resume=resume)
        assert load_run(tmp_path / "run") == modest

    def test_a_run_that_finished_no_epoch_may_go_on_with_other_options(
        self, tiny, tmp_path, monkeypatch
    ):
        with monkeypatch.context() as pressed:
            TestStopping().interrupt(pressed, at=0)
            with pytest.raises(FitInterrupted, match="in epoch 1 of 2"):
                fit(tiny.run, tiny.manifest, tmp_path / "run")
        with pytest.raises(FitError, match="already holds a run; add --resume"):
            fit(tiny.run, tiny.manifest, tmp_path / "run")
        modest = tiny.run.with_overrides(["fit.batch_size=10", "fit.epochs=1"])
        fit(modest, tiny.manifest, tmp_path / "run", resume=True)
        assert load_run(tmp_path / "run") == modest


class TestStopping:
    """Ctrl-C, and what is there afterwards."""

    def interrupt(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        """Press Ctrl-C in training step `at`."""
        plain = ReconstructionDetector.loss
        steps = iter(range(10**6))

        def loss(self, observation):
            if next(steps) == at:
                raise KeyboardInterrupt
            return plain(self, observation)

        monkeypatch.setattr(ReconstructionDetector, "loss", loss)

    def test_a_resumed_run_is_the_uninterrupted_one(self, tiny, tmp_path, monkeypatch):
        out = tmp_path / "run"
        with monkeypatch.context() as pressed:
            self.interrupt(pressed, at=3)  # two steps an epoch: in the second epoch
            message = r"stopped in epoch 2 of 2; every finished epoch is kept: .*--resume goes on"
            with pytest.raises(FitInterrupted, match=message):
                fit(tiny.run, tiny.manifest, out)
        assert load_run(out) == tiny.run
        assert not (out / "model.safetensors").exists()
        with pytest.raises(CheckpointError, match=r"the run was not finished; .*--resume"):
            load(out)
        with pytest.raises(FitError, match="already holds a run; add --resume"):
            fit(tiny.run, tiny.manifest, out)
        with pytest.raises(FitError, match="with other options"):
            fit(tiny.run.with_overrides(["fit.epochs=3"]), tiny.manifest, out, resume=True)

        fitted = fit(tiny.run, tiny.manifest, out, resume=True)
        expected = state_of(tiny.folder)
        for name, tensor in state_of(out).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)
        assert fitted.calibration.scores == pytest.approx(tiny.fitted.calibration.scores, abs=1e-6)
        assert load_training(out).train_loss == pytest.approx(
            load_training(tiny.folder).train_loss, abs=1e-6
        )

    def test_resuming_a_finished_run_changes_nothing(self, tiny, run_copy):
        fit(tiny.run, tiny.manifest, run_copy, resume=True)
        expected = state_of(tiny.folder)
        assert all(torch.equal(tensor, expected[n]) for n, tensor in state_of(run_copy).items())
        assert load(run_copy).calibration == tiny.fitted.calibration

    def test_a_run_folder_may_be_moved_before_it_is_resumed(self, tiny, tmp_path, monkeypatch):
        run = tiny.run.with_overrides(["fit.patience=1", "fit.epochs=3"])
        fit(run, tiny.manifest, tmp_path / "whole")
        with monkeypatch.context() as pressed:
            self.interrupt(pressed, at=6)  # two steps and two validation batches an epoch
            with pytest.raises(FitInterrupted, match="in epoch 2 of 3"):
                fit(run, tiny.manifest, tmp_path / "before")
        moved = shutil.move(tmp_path / "before", tmp_path / "after")
        fit(run, tiny.manifest, moved, resume=True)
        expected = state_of(tmp_path / "whole")
        for name, tensor in state_of(moved).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)
        assert load_training(moved).checkpoint == load_training(tmp_path / "whole").checkpoint
        assert not (tmp_path / "before").exists()

    @pytest.mark.parametrize("keep", [0, 100, 5000])
    def test_a_damaged_checkpoint_is_named(self, tiny, run_copy, keep):
        last = run_copy / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[:keep])
        with pytest.raises(FitError, match=rf"{last} is damaged \(\w+\); restore it, or remove it"):
            fit(tiny.run, tiny.manifest, run_copy, resume=True)

    def test_a_full_disk_in_training_is_named_and_can_be_resumed(self, tiny, tmp_path, monkeypatch):
        plain = Path.write_bytes
        saved = iter(range(10))

        def second_is_too_much(path, content):
            if next(saved) == 1:
                plain(path, content[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(path, content)

        out = tmp_path / "run"
        last = out / "checkpoints" / "last.ckpt"
        with monkeypatch.context() as full:
            full.setattr(Path, "write_bytes", second_is_too_much)
            message = rf"{last} could not be written: No space .* in epoch 2 .*--resume goes on"
            with pytest.raises(FitError, match=message):
                fit(tiny.run, tiny.manifest, out)
        assert [path.name for path in last.parent.iterdir()] == [last.name]
        fit(tiny.run, tiny.manifest, out, resume=True)
        expected = state_of(tiny.folder)
        for name, tensor in state_of(out).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)

    def test_a_full_disk_at_the_end_keeps_the_checkpoint(
        self, tiny, tmp_path, monkeypatch, untrained
    ):
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskError, match=r"model\.safetensors could not be written: No space"):
            fit(tiny.run, tiny.manifest, tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.yaml"]
