"""anomalib's models as detectors: each is built, taught, asked, saved; and says what it cannot."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from methods.tiny_anomalib import TINY_MODELS, clip_patchcore, winclip
from methods.tiny_detectors import SIDE, Images, Weights, batch_of, random_images
from scanomaly.backbones.base import Backbone
from scanomaly.backbones.loading import filled, find_source
from scanomaly.checkpoint import load_detector, save_detector
from scanomaly.config.anomalib_models import (
    BLOCKS,
    AnomalibConfig,
    Cflow,
    Draem,
    Padim,
    Patchcore,
    ReverseDistillation,
    Stfpm,
    Winclip,
)
from scanomaly.config.backbones import BackboneConfig, ClipConfig
from scanomaly.config.data import DataConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.run import Run
from scanomaly.data.manifest import read_manifest
from scanomaly.errors import ConfigError, FitError
from scanomaly.fitting import fit
from scanomaly.methods.outside import AnomalibDetector
from scanomaly.methods.outside.building import RECIPES, build_module
from scanomaly.methods.outside.detector import seeded
from scanomaly.methods.outside.memory import FILLS
from scanomaly.methods.outside.optimisation import own_optimisation
from scanomaly.records import Batch
from scanomaly.run_folder import load_training
from tiny_runs import write_set

pytest.importorskip("anomalib", reason="the extra `bench` is not installed")

OPTIONS = FitOptions(epochs=2, batch_size=4, learning_rate=1e-3, accelerator="cpu")
RANDOM_RESNET = BackboneConfig(name="resnet18.a1_in1k", weights="random")


def images_at(side: int, count: int = 8, seed: int = 0) -> Tensor:
    small = random_images(count, seed)
    return nn.functional.interpolate(small, size=(side, side), mode="bilinear")


def fitted(
    config: object, run_dir: Path, images: Tensor, options: FitOptions = OPTIONS
) -> AnomalibDetector:
    torch.manual_seed(0)
    detector = AnomalibDetector.build(config)
    detector.fit(Images(images), options=options, run_dir=run_dir)
    return detector


def saved_and_loaded(detector: AnomalibDetector, folder: Path) -> AnomalibDetector:
    run = Run(preset="tiny", source="tests", method="anomalib", config=detector.config)
    save_detector(detector, run, folder)
    loaded, _ = load_detector(folder)
    assert isinstance(loaded, AnomalibDetector)
    return loaded


def test_every_model_has_a_recipe_and_a_tiny_configuration():
    assert RECIPES.keys() == BLOCKS.keys() == TINY_MODELS.keys()
    assert FILLS.keys() < RECIPES.keys()


@pytest.mark.parametrize("name", TINY_MODELS)
def test_each_model_learns_and_is_loaded_back(name: str, weights: Weights, tmp_path: Path):
    config = TINY_MODELS[name](weights)
    assert isinstance(config, AnomalibConfig)
    images = images_at(config.side)
    torch.manual_seed(0)
    detector = AnomalibDetector.build(config)
    before = {key: value.clone() for key, value in detector.fitted_state().items()}
    history = detector.fit(Images(images), options=OPTIONS, run_dir=tmp_path / "run")
    after = detector.fitted_state()
    changed = [key for key, value in after.items() if not torch.equal(before[key], value)]
    assert changed, "fit left everything as it was"
    assert (history.steps == 0) == (name in FILLS)
    assert len(history.train_loss) == (0 if name in FILLS else 2)
    asked = images_at(config.side, 3, seed=1)
    found = detector.predict(batch_of(asked))
    assert found.score.shape == (3,)
    assert found.anomaly_map.shape == (3, 1, config.side, config.side)
    assert found.score.isfinite().all()
    assert found.anomaly_map.isfinite().all()
    assert len(found.score.unique()) == 3
    alone = detector.predict(batch_of(asked[1:2]))
    torch.testing.assert_close(alone.score, found.score[1:2], rtol=1e-4, atol=1e-6)
    again = saved_and_loaded(detector, tmp_path / "saved").predict(batch_of(asked))
    assert torch.equal(again.score, found.score)
    assert torch.equal(again.anomaly_map, found.anomaly_map)


def test_nothing_of_a_frozen_network_is_saved(weights: Weights):
    for name in ("stfpm", "winclip", "dinomaly"):
        detector = AnomalibDetector.build(TINY_MODELS[name](weights))
        frozen = {p.data_ptr() for net in detector.frozen() for p in net.parameters()}
        assert frozen
        assert not frozen & {value.data_ptr() for value in detector.fitted_state().values()}


# The same numbers as anomalib's own, which reads the same values with its own extractor

LAYERS = {"layers": ["layer1", "layer2"], "backbone": "resnet18", "pre_trained": False}


def theirs(package: str, kind: str, **options: object) -> nn.Module:
    model = getattr(import_module(f"anomalib.models.image.{package}.torch_model"), kind)(
        **LAYERS, **options
    )
    values = filled(find_source(RANDOM_RESNET)).state_dict()
    network = model.feature_extractor.feature_extractor
    assert not network.load_state_dict(values, strict=False).missing_keys
    return model


def same_as(model: nn.Module, detector: AnomalibDetector, asked: Tensor) -> None:
    (backbone,) = detector.frozen()
    assert isinstance(backbone, Backbone)
    with torch.no_grad():
        expected = model.eval()(backbone.normalised(asked))
    found = detector.predict(batch_of(asked))
    torch.testing.assert_close(found.score, expected.pred_score.flatten(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-4)


def on_resnet(model: Patchcore | Padim) -> AnomalibConfig:
    return AnomalibConfig(model=model, side=SIDE, backbone=RANDOM_RESNET, blocks=(1, 2))


def test_patchcore_is_anomalibs(tmp_path: Path):
    images, asked = random_images(8), random_images(3, seed=1)
    detector = fitted(on_resnet(Patchcore()), tmp_path, images)
    (backbone,) = detector.frozen()
    assert isinstance(backbone, Backbone)
    model = theirs("patchcore", "PatchcoreModel").train()
    with torch.no_grad(), seeded(OPTIONS.seed, torch.device("cpu")):
        for some in images.split(OPTIONS.batch_size):
            model(backbone.normalised(some))
        with pytest.warns(DeprecationWarning, match="embeddings"):  # which it gives itself
            model.subsample_embedding(0.1)
    assert len(model.memory_bank) == 51
    torch.testing.assert_close(detector.model.memory_bank, model.memory_bank, rtol=1e-4, atol=1e-4)
    same_as(model, detector, asked)


def test_padim_is_anomalibs(tmp_path: Path):
    images, asked = random_images(8), random_images(3, seed=1)
    detector = fitted(on_resnet(Padim(features=20)), tmp_path, images)
    (backbone,) = detector.frozen()
    assert isinstance(backbone, Backbone)
    model = theirs("padim", "PadimModel", n_features=20).train()
    model.idx = detector.model.idx
    with torch.no_grad():
        for some in images.split(OPTIONS.batch_size):
            model(backbone.normalised(some))
        model.fit()
    same_as(model, detector, asked)


def test_winclips_windows_of_one_image_do_not_see_those_of_another(
    weights: Weights, tmp_path: Path
):
    """open_clip's blocks take the batch first now, and anomalib 2.7 gives it second."""
    detector = fitted(winclip(weights), tmp_path, random_images(2))
    model, asked = detector.model, random_images(2, seed=1)
    with torch.no_grad():
        _, windows, patches = model.encode_image(asked)
        _, alone, _ = model.encode_image(asked[:1])
    assert patches.shape == (2, 16, 16)
    for window, single in zip(windows, alone, strict=True):
        torch.testing.assert_close(window[:1], single, rtol=1e-4, atol=1e-5)


def test_windows_are_cut_of_few_images_at_once(weights: Weights, tmp_path: Path):
    detector = fitted(winclip(weights), tmp_path, random_images(2))
    asked, counts = random_images(6, seed=1), []
    detector.model.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    found = detector.predict(Batch(asked, tuple("abcdef")))
    assert counts == [4, 2]
    for index in range(6):
        alone = detector.predict(Batch(asked[index : index + 1], ("a",)))
        torch.testing.assert_close(found.score[index : index + 1], alone.score)
        torch.testing.assert_close(found.anomaly_map[index : index + 1], alone.anomaly_map)


# Few-shot


@pytest.mark.parametrize("config_of", [clip_patchcore, lambda w: winclip(w, few_shot=True)])
def test_an_image_that_was_remembered_is_held_out(config_of, weights: Weights, tmp_path: Path):
    images = random_images(4)
    detector = fitted(config_of(weights), tmp_path, images)
    batch = batch_of(images)
    remembered, held = detector.predict(batch), detector.predict_held_out(batch)
    assert (held.score > remembered.score + 1e-4).all()
    others = fitted(config_of(weights), tmp_path, images[1:])
    torch.testing.assert_close(held.score[:1], others.predict(batch_of(images[:1])).score)
    again = detector.predict(batch)
    assert torch.equal(again.score, remembered.score), "the memory is whole again"
    loaded = saved_and_loaded(detector, tmp_path / "saved")
    assert torch.equal(loaded.predict_held_out(batch).score, held.score)


def test_images_that_were_not_remembered_are_scored_as_they_are(weights: Weights, tmp_path: Path):
    detector = fitted(clip_patchcore(weights), tmp_path, random_images(2))
    others = Batch(random_images(2, seed=1), ("one", "two"))
    assert torch.equal(detector.predict_held_out(others).score, detector.predict(others).score)


def test_a_memory_of_one_image_cannot_hold_it_out(weights: Weights, tmp_path: Path):
    detector = fitted(clip_patchcore(weights), tmp_path, random_images(1))
    with pytest.raises(FitError, match="at least 2 normal images"):
        detector.predict_held_out(batch_of(random_images(1)))


# Training


def test_the_learning_rate_is_the_options_and_groups_keep_their_ratio(weights: Weights):
    options = OPTIONS.model_copy(update={"learning_rate": 3e-4})
    module = build_module(TINY_MODELS["supersimplenet"](weights))
    (optimiser,), (schedule,) = own_optimisation(module, options, by_step=False).optimisers(20)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([3e-4, 6e-4])
    assert schedule["interval"] == "epoch"
    assert schedule["scheduler"].base_lrs == pytest.approx([3e-4, 6e-4])


def test_dinomalys_schedule_counts_steps_up_to_the_given_rate(weights: Weights):
    module = build_module(TINY_MODELS["dinomaly"](weights))
    (optimiser,), (schedule,) = own_optimisation(module, OPTIONS, by_step=True).optimisers(400)
    assert schedule["interval"] == "step"
    assert max(schedule["scheduler"].schedule) == pytest.approx(OPTIONS.learning_rate)
    assert optimiser.param_groups[0]["lr"] == 0


def test_training_goes_on_where_it_stopped(weights: Weights, tmp_path: Path):
    """Running means of the student's norms too."""
    config, images = TINY_MODELS["stfpm"](weights), random_images(8)
    whole = fitted(config, tmp_path / "whole", images)
    half = OPTIONS.model_copy(update={"epochs": 1})
    fitted(config, tmp_path / "half", images, half)
    torch.manual_seed(0)
    resumed = AnomalibDetector.build(config)
    resumed.fit(Images(images), options=OPTIONS, run_dir=tmp_path / "half", resume=True)
    for key, value in whole.fitted_state().items():
        assert torch.equal(resumed.fitted_state()[key], value), key


def test_textures_of_a_folder_are_pasted(tmp_path: Path):
    model = Draem(width=2, textures=str(tmp_path))
    with pytest.raises(ConfigError, match="expected a folder of images to paste, found none"):
        AnomalibDetector.build(AnomalibConfig(model=model, side=SIDE))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    detector = AnomalibDetector.build(AnomalibConfig(model=model, side=SIDE))
    (module,) = detector._module
    assert [path.name for path in module.augmenter.anomaly_source_paths] == ["red.png"]


# What cannot be done


def test_without_anomalib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, weights: Weights):
    monkeypatch.setitem(sys.modules, "anomalib.models.image", None)
    with pytest.raises(ConfigError, match=r"pip install 'scanomaly\[bench\]'"):
        AnomalibDetector.build(TINY_MODELS["patchcore"](weights))


@pytest.mark.parametrize("name", FILLS)
def test_nothing_is_predicted_before_images_were_seen(name: str, weights: Weights):
    detector = AnomalibDetector.build(TINY_MODELS[name](weights))
    with pytest.raises(FitError, match="has seen no images yet"):
        detector.predict(batch_of(random_images(1)))


def test_the_validation_loss_that_patience_asks_for_does_not_exist(
    weights: Weights, tmp_path: Path
):
    detector = AnomalibDetector.build(TINY_MODELS["stfpm"](weights))
    images = Images(random_images(4))
    with pytest.raises(FitError, match=r"fit\.patience"):
        detector.fit(images, images, options=OPTIONS, run_dir=tmp_path)


def test_a_model_that_steps_itself_takes_no_accumulation(weights: Weights, tmp_path: Path):
    options = OPTIONS.model_copy(update={"accumulate": 2})
    with pytest.raises(FitError, match=r"set fit\.accumulate=1"):
        fitted(TINY_MODELS["ganomaly"](weights), tmp_path, random_images(8), options)


def test_one_image_has_no_covariance(weights: Weights, tmp_path: Path):
    with pytest.raises(FitError, match="at least 2 normal images to see how they vary, got 1"):
        fitted(TINY_MODELS["padim"](weights), tmp_path, random_images(1))


def test_a_coreset_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(FitError, match=r"coreset_ratio=0\.001 of 128 patches keeps none"):
        fitted(on_resnet(Patchcore(coreset_ratio=0.001)), tmp_path, random_images(2))


def test_a_network_without_a_decoder_is_named():
    backbone = BackboneConfig(name="tf_efficientnet_lite0.in1k", weights="random")
    config = AnomalibConfig(
        model=ReverseDistillation(), side=SIDE, backbone=backbone, blocks=(1, 2, 3)
    )
    with pytest.raises(ConfigError, match=r"reverse_distillation on tf_efficientnet.*Decoder"):
        AnomalibDetector.build(config)


def test_blocks_and_sides_that_a_network_lacks_are_named(weights: Weights):
    config = TINY_MODELS["patchcore"](weights).model_copy(update={"blocks": (2, 9)})
    with pytest.raises(ConfigError, match=r"config\.blocks=\(2, 9\): block 9 does not exist"):
        AnomalibDetector.build(config)
    config = winclip(weights).model_copy(update={"side": 64})
    with pytest.raises(ConfigError, match=r"expected config\.side=32, got 64"):
        AnomalibDetector.build(config)


def test_a_students_teacher_is_a_cnn(weights: Weights):
    config = TINY_MODELS["anomaly_dino"](weights).model_copy(update={"model": Stfpm()})
    with pytest.raises(ConfigError, match="student is a CNN"):
        AnomalibDetector.build(config)


def test_what_a_model_cannot_train_on_is_named(weights: Weights, tmp_path: Path):
    config = TINY_MODELS["cflow"](weights).model_copy(update={"model": Cflow(fibers=65)})
    with pytest.raises(FitError, match=r"anomalib's cflow cannot train: .*fibers"):
        fitted(config, tmp_path, random_images(4))
    small = TINY_MODELS["supersimplenet"](weights).model_copy(update={"side": SIDE})
    with pytest.raises(ConfigError, match=r"at least 32 positions a side.*got 16"):
        AnomalibDetector.build(small)


@pytest.mark.parametrize("name", ["dinomaly", "anomaly_dino"])
def test_tokens_are_those_of_a_transformer(name: str, weights: Weights):
    blocks = TINY_MODELS[name](weights).blocks
    model = TINY_MODELS[name](weights).model
    config = AnomalibConfig(model=model, side=SIDE, backbone=RANDOM_RESNET, blocks=blocks)
    with pytest.raises(ConfigError, match="reads the tokens of a vision transformer"):
        AnomalibDetector.build(config)


def test_words_come_from_the_data_set():
    config = AnomalibConfig(
        model=Winclip(), side=SIDE, backbone=ClipConfig(name="tiny-clip/x", weights="random")
    )
    with pytest.raises(ConfigError, match=r"config\.model\.object is what the images show"):
        AnomalibDetector.build(config)
    named = config.for_dataset("Chest")
    assert named.model.object == "Chest X-ray film"
    assert named.for_dataset("Brain").model.object == "Brain"
    assert named.for_dataset("knee_mri") == named


# Whole runs


@pytest.mark.parametrize("name", ["patchcore", "stfpm"])
def test_a_few_shot_run_learns_from_the_normal_images_alone(
    name: str, weights: Weights, tmp_path: Path
):
    run = Run(
        preset="tiny",
        source="tests",
        method="anomalib",
        config=TINY_MODELS[name](weights),
        data=DataConfig(supervision="few_shot", shots=2, support="seed:0"),
        fit=OPTIONS.model_copy(update={"batch_size": 2}),
    )
    found = fit(run, read_manifest(write_set(tmp_path / "Brain")), tmp_path / "run")
    assert found is not None
    assert found.calibration is not None
    assert len(found.calibration.scores) == 2
    record = load_training(tmp_path / "run")
    assert record is not None
    assert record.trained_on.startswith("the normal images of 2-shot support")
    assert record.images["train"] == 2
