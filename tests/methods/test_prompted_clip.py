"""A CLIP that is only asked: what it answers without any image."""

from pathlib import Path

import pytest
import torch

from methods.tiny_anomalib import prompted_clip, winclip
from methods.tiny_detectors import Images, Weights, batch_of, random_images
from scanomaly.backbones.clip import build_clip
from scanomaly.config.fit import FitOptions
from scanomaly.config.run import Run
from scanomaly.data.manifest import read_manifest
from scanomaly.errors import ConfigError
from scanomaly.fitting import UNTAUGHT, fit
from scanomaly.methods.prompted_clip import NOT_TRAINED, PromptedClip
from scanomaly.methods.prompts import ensemble
from scanomaly.presets import preset
from scanomaly.run_folder import load_training
from tiny_runs import write_set

OPTIONS = FitOptions(batch_size=1, accelerator="cpu")


@pytest.fixture(scope="module")
def detector(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> PromptedClip:
    found = PromptedClip.build(prompted_clip(weights))
    run_dir = tmp_path_factory.mktemp("run")
    history = found.fit(Images(torch.zeros(0, 3, 32, 32)), options=OPTIONS, run_dir=run_dir)
    assert (history.steps, history.checkpoint) == (0, NOT_TRAINED)
    return found


def test_the_score_is_the_probability_of_the_abnormal_prompt(detector: PromptedClip):
    images = random_images(2)
    clip = build_clip(detector.config.backbone)
    words = ensemble(clip.text, "Brain")
    with torch.no_grad():
        pooled = clip.vision.extract(images, (-1,)).pooled
        assert pooled is not None
        cosines = torch.nn.functional.normalize(pooled, dim=-1) @ words
    expected = (100 * cosines).softmax(dim=-1)[:, 1]
    torch.testing.assert_close(detector.predict(batch_of(images)).score, expected)


def test_the_map_is_a_probability_that_differs_from_place_to_place(detector: PromptedClip):
    found = detector.predict(batch_of(random_images(1))).anomaly_map
    assert 0 <= found.min() < found.max() <= 1


def test_other_words_give_other_scores(detector: PromptedClip, weights: Weights, tmp_path: Path):
    config = prompted_clip(weights).model_copy(update={"object": "liver"})
    other = PromptedClip.build(config)
    other.fit(Images(random_images(1)), options=OPTIONS, run_dir=tmp_path)
    batch = batch_of(random_images(2))
    assert not torch.equal(other.predict(batch).score, detector.predict(batch).score)


def test_words_come_from_the_data_set(weights: Weights):
    config = prompted_clip(weights).model_copy(update={"object": None})
    with pytest.raises(ConfigError, match=r"config\.object is what the images show"):
        PromptedClip.build(config)
    assert config.for_dataset("Retina_RESC").object == "retinal OCT"
    own = config.model_copy(update={"object": "an eye"})
    assert own.for_dataset("Retina_RESC").object == "an eye"


ARCHIVE = {("valid", "good"): 4, ("valid", "Ungood"): 2, ("test", "good"): 2}
"""As MVFA's authors publish a set: without a train folder."""


@pytest.mark.parametrize(
    ("method", "config"), [("prompted_clip", prompted_clip), ("anomalib", winclip)]
)
@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_what_learns_nothing_needs_no_train_folder(
    method: str, config, protocol, weights: Weights, tmp_path: Path
):
    if method == "anomalib":
        pytest.importorskip("anomalib", reason="the extra `bench` is not installed")
    manifest = read_manifest(write_set(tmp_path / "Brain_AD", ARCHIVE, deep=True))
    run = Run(preset="t", source="tests", method=method, config=config(weights), fit=OPTIONS)
    fitted = fit(run.under(protocol), manifest, tmp_path / "run")
    assert fitted is not None
    record = load_training(tmp_path / "run")
    assert (record.trained_on, record.images["train"]) == (UNTAUGHT, 0)
    assert record.images["healthy"] == (4 if protocol == "honest" else 0)
    assert (fitted.calibration is not None) == (protocol == "honest")
    assert fitted.run.data.window is not None, "of the healthy images of valid"


def test_presets_differ_in_the_clip_alone():
    full, tiny = preset("clip-prompts").config, preset("clip-prompts-offline").config
    assert (full.backbone.name, full.side) == ("ViT-L-14-336/openai", 240)
    assert (tiny.backbone.name, tiny.side) == ("tiny-clip/phantom", 128)
    assert tiny.model_copy(update={"backbone": full.backbone}) == full
