"""What every detector promises. Runs over METHODS: a new method is covered unasked."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from methods.tiny_anomalib import UNUSED
from methods.tiny_detectors import (
    TINY_CONFIGS,
    LabelledImages,
    Weights,
    batch_of,
    random_images,
)
from scanomaly.calibration import Calibration
from scanomaly.checkpoint import load_detector, save_detector
from scanomaly.config.base import Frozen
from scanomaly.config.fit import FitOptions
from scanomaly.config.run import CONFIGS, Run
from scanomaly.errors import FitError
from scanomaly.methods import METHODS, Detector
from scanomaly.records import Prediction
from scanomaly.training import History

OPTIONS = FitOptions(
    epochs=2, batch_size=4, learning_rate=1e-2, warm_up=0.3, seed=3, accelerator="cpu"
)
Case = tuple[str, str]
"""Method and name of its tiny configuration."""


def cases(methods: Mapping[str, object]) -> list[Case]:
    """Every tiny configuration; a method without one is a case that fails, not one left out."""
    return [(method, name) for method in methods for name in TINY_CONFIGS.get(method, ["none"])]


def tiny_config(case: Case, weights: Weights) -> Frozen:
    method, name = case
    if method == "anomalib":
        pytest.importorskip("anomalib", reason="the extra `bench` is not installed")
    if name not in TINY_CONFIGS.get(method, {}):
        pytest.fail(
            f"METHODS has {method!r}, but TINY_CONFIGS in tests/methods/tiny_detectors.py has no "
            "tiny configuration for it; add one, so that the contract tests cover it.",
            pytrace=False,
        )
    return TINY_CONFIGS[method][name](weights)


@dataclass(frozen=True)
class Fitted:
    """A detector after two tiny epochs, and what it was before."""

    detector: Detector
    run: Run
    run_dir: Path
    history: History
    before: dict[str, Tensor]
    fingerprints: list[str]
    training: LabelledImages

    @property
    def side(self) -> int:
        return self.detector.input_spec.side

    @property
    def trainable(self) -> set[str]:
        return {name for name, p in self.detector.named_parameters() if p.requires_grad}

    def predict(self, image: Tensor) -> Prediction:
        return self.detector.predict(batch_of(image))


def fitted_detector(case: Case, config: Frozen, run_dir: Path) -> Fitted:
    method, name = case
    torch.manual_seed(0)
    detector = METHODS[method].build(config)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    fingerprints = [backbone.fingerprint() for backbone in detector.frozen()]
    training = LabelledImages(random_images(8, side=detector.input_spec.side))
    history = detector.fit(training, options=OPTIONS, run_dir=run_dir)
    run = Run(preset=f"tiny-{name}", source="tests", method=method, config=config, fit=OPTIONS)
    return Fitted(detector, run, run_dir, history, before, fingerprints, training)


@pytest.fixture(scope="module", params=cases(METHODS), ids="-".join)
def fitted(
    request: pytest.FixtureRequest, weights: Weights, tmp_path_factory: pytest.TempPathFactory
) -> Fitted:
    config = tiny_config(request.param, weights)
    return fitted_detector(request.param, config, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def images(fitted: Fitted) -> Tensor:
    return random_images(3, seed=1, side=fitted.side)


def test_every_method_has_a_configuration_model():
    assert METHODS.keys() == CONFIGS.keys()


def test_a_method_without_a_tiny_configuration_fails(weights):
    (case,) = cases({"fifth": object})
    with pytest.raises(pytest.fail.Exception, match=r"'fifth'.*TINY_CONFIGS.*add one"):
        tiny_config(case, weights)


def test_prediction_has_the_methods_side_and_finite_values(fitted, images):
    prediction = fitted.predict(images)
    assert prediction.score.shape == (3,)
    assert prediction.anomaly_map.shape == (3, 1, fitted.side, fitted.side)
    tensors = [prediction.score, prediction.anomaly_map, *prediction.parts.values()]
    if prediction.reconstruction is not None:
        assert 0 <= prediction.reconstruction.min() <= prediction.reconstruction.max() <= 1
        tensors.append(prediction.reconstruction)
    for tensor in tensors:
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        assert not tensor.requires_grad
    assert len(prediction.score.unique()) == 3


def test_the_batch_an_image_comes_in_changes_nothing(fitted):
    images = random_images(8, seed=1, side=fitted.side)
    together = fitted.predict(images)
    alone = [fitted.predict(image[None]) for image in images]
    score = torch.cat([one.score for one in alone])
    anomaly_map = torch.cat([one.anomaly_map for one in alone])
    torch.testing.assert_close(together.score, score, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together.anomaly_map, anomaly_map, rtol=1e-3, atol=1e-5)


def test_embeddings_are_finite_and_those_of_each_image_alone(fitted, images):
    """A method that has none says so with ConfigError when figures are asked for."""
    if type(fitted.detector).embeddings is Detector.embeddings:
        return
    together = fitted.detector.embeddings(batch_of(images))
    alone = [fitted.detector.embeddings(batch_of(image[None])) for image in images]
    places = [(one.figure, one.row, one.column, one.series) for one in together]
    assert places
    assert len(set(places)) == len(places)
    for index, found in enumerate(together):
        assert found.vectors.isfinite().all()
        assert not found.vectors.requires_grad
        expected = torch.cat([embeddings[index].vectors for embeddings in alone])
        torch.testing.assert_close(found.vectors, expected, rtol=1e-3, atol=1e-4)
    for embeddings in alone:
        assert [(one.figure, one.row, one.column, one.series) for one in embeddings] == places


def test_predict_changes_no_state_and_repeats_itself(fitted, images):
    state = {key: value.clone() for key, value in fitted.detector.state_dict().items()}
    first, second = fitted.predict(images), fitted.predict(images)
    assert torch.equal(first.score, second.score)
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    for key, value in fitted.detector.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_an_image_without_content_scores_finite(fitted):
    for value in (0.0, 1.0):
        prediction = fitted.predict(torch.full((1, 3, fitted.side, fitted.side), value))
        assert prediction.score.isfinite().all()
        assert prediction.anomaly_map.isfinite().all()


def test_fit_leaves_the_backbones_untouched(fitted):
    detector = fitted.detector
    fresh = type(detector).build(fitted.run.config)
    assert [b.fingerprint() for b in fresh.frozen()] == fitted.fingerprints
    for backbone, original in zip(detector.frozen(), fresh.frozen(), strict=True):
        assert not backbone.training
        assert not any(module.training for module in backbone.modules())
        assert all(not p.requires_grad and p.grad is None for p in backbone.parameters())
        found = backbone.state_dict()
        for key, value in original.state_dict().items():
            assert torch.equal(found[key], value), key


def test_fit_changes_every_trainable_tensor(fitted):
    after = fitted.detector.state_dict()
    unchanged = {k for k in fitted.trainable if torch.equal(after[k], fitted.before[k])}
    assert unchanged == UNUSED.get(fitted.run.preset.removeprefix("tiny-"), set())


def test_fit_changes_something(fitted):
    """Also where nothing has a gradient and a memory is filled, which may start empty."""
    after = fitted.detector.fitted_state()
    assert [k for k, value in after.items() if not torch.equal(value, fitted.before[k])]


def test_fit_reports_and_leaves_checkpoints_and_logs(fitted):
    history, run_dir = fitted.history, fitted.run_dir
    if history.steps == 0:  # a memory: nothing was trained, so there is nothing to go on from
        assert history.train_loss == ()
        assert not (run_dir / "checkpoints").exists()
        return
    batches = 2 * len(fitted.training) // OPTIONS.batch_size
    assert history.steps % batches == 0, "one optimiser's step, or several, in each batch"
    assert len(history.train_loss) == 2
    assert history.train_loss[1] < history.train_loss[0]
    assert history.checkpoint == "last epoch"
    saved = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    wanted = {f"model.{name}" for name in fitted.trainable}
    assert wanted <= saved.keys() <= {f"model.{n}" for n in fitted.detector.fitted_state()}
    assert (run_dir / "logs" / "csv" / "metrics.csv").read_text().count("\n") > 2
    assert list((run_dir / "logs" / "tensorboard").glob("events*"))


def test_fit_repeats_itself_whatever_was_done_before(fitted, images, tmp_path):
    """Neither random numbers drawn meanwhile nor the eval mode of predict change anything."""
    torch.manual_seed(0)
    detector = type(fitted.detector).build(fitted.run.config)
    with suppress(FitError):  # a memory that is still empty
        detector.predict(batch_of(images))
    torch.rand(17)
    history = detector.fit(fitted.training, options=OPTIONS, run_dir=tmp_path)
    assert history == fitted.history
    for key, value in fitted.detector.fitted_state().items():
        assert torch.equal(detector.fitted_state()[key], value), key


def test_fit_in_bf16_keeps_its_weights_and_the_backbones_in_fp32(fitted, images, tmp_path):
    torch.manual_seed(0)
    detector = type(fitted.detector).build(fitted.run.config)
    half = OPTIONS.model_copy(update={"precision": "bf16"})
    history = detector.fit(fitted.training, options=half, run_dir=tmp_path)
    assert history.train_loss == pytest.approx(fitted.history.train_loss, rel=0.05)
    assert not history.steps or history.train_loss != fitted.history.train_loss
    state = detector.fitted_state().values()
    assert {t.dtype for t in state if t.is_floating_point()} == {torch.float32}
    assert [backbone.fingerprint() for backbone in detector.frozen()] == fitted.fingerprints
    save_detector(detector, fitted.run, tmp_path)
    loaded, _ = load_detector(tmp_path)
    expected = detector.use_precision("fp32").predict(batch_of(images))
    assert torch.equal(loaded.predict(batch_of(images)).score, expected.score)


def test_fitted_state_is_everything_but_the_backbones(fitted):
    """By storage, not by name: one backbone may be reached under several names."""
    state = fitted.detector.fitted_state()
    frozen = {
        tensor.data_ptr()
        for backbone in fitted.detector.frozen()
        for tensor in (*backbone.parameters(), *backbone.buffers())
    }
    assert [key for key, value in state.items() if value.data_ptr() in frozen] == []
    assert fitted.trainable <= state.keys()


def test_a_saved_detector_scores_the_same(fitted, images, tmp_path):
    save_detector(fitted.detector, fitted.run, tmp_path)
    loaded, run = load_detector(tmp_path)
    assert run == fitted.run
    expected, found = fitted.predict(images), loaded.predict(batch_of(images))
    assert torch.equal(found.score, expected.score)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)
    fitted_values = sum(t.numel() * t.element_size() for t in loaded.fitted_state().values())
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size < fitted_values * 1.2 + 20_000


def test_calibrate_gives_healthy_scores_and_a_map_range(fitted, images):
    batches = [batch_of(images), batch_of(random_images(2, seed=2, side=fitted.side))]
    calibration = fitted.detector.calibrate(batches, false_alarm_rate=0.2, source="healthy")
    assert isinstance(calibration, Calibration)
    scores = torch.cat([fitted.detector.predict_held_out(batch).score for batch in batches])
    assert calibration.scores == tuple(sorted(scores.tolist()))
    low, high = calibration.map_range
    assert low < high
    assert (calibration.false_alarm_rate, calibration.source) == (0.2, "healthy")


@contextmanager
def without_ranges(detector: Detector) -> Iterator[None]:
    """Branches in their own units: on the scale of similar images, rounding looks large."""
    ranges = dict(detector.named_buffers()).get("branch_ranges", torch.zeros(0, 2))
    fitted = ranges.clone()
    ranges.copy_(torch.tensor([0.0, 1.0]))
    try:
        yield
    finally:
        ranges.copy_(fitted)


def test_calibrate_refuses_a_score_that_is_not_finite(fitted, images, monkeypatch):
    broken = fitted.detector.predict(batch_of(images))
    broken.score[1] = float("nan")
    monkeypatch.setattr(fitted.detector, "predict_held_out", lambda batch: broken)
    with pytest.raises(FitError, match=r"image 1: the score of this healthy image is not finite"):
        fitted.detector.calibrate([batch_of(images)], false_alarm_rate=0.2, source="healthy")


def test_bf16_scores_are_near_and_fp32_comes_back_exactly(fitted, images):
    with without_ranges(fitted.detector):
        bf16_is_near_and_fp32_comes_back(fitted, images)


def bf16_is_near_and_fp32_comes_back(fitted: Fitted, images: Tensor) -> None:
    exact = fitted.predict(images).score
    fingerprints = [backbone.fingerprint() for backbone in fitted.detector.frozen()]
    try:
        half = fitted.detector.use_precision("bf16").predict(batch_of(images))
        assert {b.precision for b in fitted.detector.frozen()} <= {torch.bfloat16}
    finally:
        fitted.detector.use_precision("fp32")
    assert half.score.dtype == half.anomaly_map.dtype == torch.float32
    # of the highest: where 0 lies is a range's choice
    torch.testing.assert_close(half.score, exact, rtol=0, atol=0.05 * exact.abs().max().item())
    assert not torch.equal(half.score, exact)
    assert torch.equal(fitted.predict(images).score, exact)
    assert [backbone.fingerprint() for backbone in fitted.detector.frozen()] == fingerprints
