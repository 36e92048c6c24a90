"""Fits that begin from the weights of another run."""

import pytest
import torch

from scanomaly.config.run import Run
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.fitting import fit, load_warm_start
from scanomaly.methods import METHODS
from scanomaly.run_folder import load_training
from scanomaly.warm_starts import warm_starts
from tiny_runs import state_of


class TestWarmStart:
    """Beginning from the weights of another run."""

    def detector(self, run: Run):
        torch.manual_seed(5)
        return METHODS[run.method].build(run.config)

    @pytest.mark.parametrize("name", ["", "model.safetensors"])
    def test_from_a_run_folder_or_its_model(self, tiny, name):
        detector = self.detector(tiny.run)
        load_warm_start(detector, str(tiny.folder / name))
        expected = state_of(tiny.folder)
        assert all(torch.equal(t, expected[n]) for n, t in detector.fitted_state().items())

    def test_fit_begins_there_and_records_it(self, tiny, tmp_path, untrained):
        run = tiny.run.with_overrides([f"fit.warm_start={tiny.folder}"])
        fitted = fit(run, tiny.manifest, tmp_path / "run")
        expected = state_of(tiny.folder)
        assert all(torch.equal(t, expected[n]) for n, t in state_of(tmp_path / "run").items())
        assert load_training(tmp_path / "run").warm_start == str(tiny.folder)
        assert fitted.splits["warm start"] == str(tiny.folder)

    def test_an_unknown_name_lists_those_there_are(self, tiny):
        message = r"fit\.warm_start=warmer: expected a packaged name \(.*\) or the path .* to null"
        with pytest.raises(ConfigError, match=message):
            load_warm_start(self.detector(tiny.run), "warmer")

    def test_an_unknown_name_claims_no_folder(self, tiny, tmp_path):
        run = tiny.run.with_overrides(["fit.warm_start=warmer"])
        with pytest.raises(ConfigError, match=r"fit\.warm_start=warmer"):
            fit(run, tiny.manifest, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_weights_of_another_size_do_not_fit(self, tiny):
        larger = tiny.run.with_overrides(["config.decoder.depth=2"])
        with pytest.raises(CheckpointError, match=r"does not fit this model: missing \['decoder"):
            load_warm_start(self.detector(larger), str(tiny.folder))

    def test_packaged_names_are_those_of_the_presets(self):
        from scanomaly.presets import PRESETS, preset

        needed = {preset(name).fit.warm_start for name in PRESETS} - {None}
        if not warm_starts():
            pytest.skip("no warm start is packaged yet")
        assert needed <= set(warm_starts())
