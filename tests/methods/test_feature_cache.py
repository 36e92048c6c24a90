"""Cached features change what is computed, never the numbers."""

import pytest
import torch

from methods.tiny_detectors import (
    Images,
    offline_qfae,
    plain_autoencoder,
    published_qfae,
    random_images,
)
from scanomaly.config.fit import FitOptions
from scanomaly.config.qfae import CorruptionConfig
from scanomaly.errors import ConfigError
from scanomaly.methods import QFAE, Autoencoder
from scanomaly.methods.feature_cache import CachedFeatures
from scanomaly.records import Draw

KINDS = {
    "vit": (QFAE, published_qfae),
    "cnn": (QFAE, offline_qfae),
    "autoencoder": (Autoencoder, plain_autoencoder),
}


def build(kind, weights):
    method, config = KINDS[kind]
    torch.manual_seed(0)
    without = {"corruption": CorruptionConfig()}  # fit refuses to cache corrupted images
    return method.build(config(weights).model_copy(update=without))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_cached_features_is_that_of_the_images(kind, precision, weights, tmp_path):
    detector = build(kind, weights).use_precision(precision).eval()
    data = Images(random_images(5))

    def observe(batch):
        return detector.observe(batch.image, detector.loss_views)

    cached = CachedFeatures(data, observe, tmp_path / "cache", batch_size=2)
    assert len(cached) == 5
    chosen = [4, 0, 3]
    found = cached.collate([cached[Draw(7, index)] for index in chosen])
    expected = observe(data.collate([data[Draw(7, index)] for index in chosen]))
    with detector.autocast():
        loss, expected_loss = detector.loss(found), detector.loss(expected)
    rtol = {"fp32": 1e-5, "bf16": 1e-2}[precision]
    torch.testing.assert_close(loss, expected_loss, rtol=rtol, atol=1e-6)
    assert torch.equal(found.image, expected.image)
    for mine, theirs in zip(found.context, expected.context, strict=True):
        assert mine.dtype == theirs.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_fit_with_cached_features_gives_the_same_weights(kind, weights, tmp_path):
    fitted = []
    for cache in (False, True):
        detector = build(kind, weights)
        history = detector.fit(
            Images(random_images(8)),
            Images(random_images(3, seed=1)),
            options=FitOptions(
                epochs=2, batch_size=4, learning_rate=1e-3, accelerator="cpu", cache_features=cache
            ),
            run_dir=tmp_path / str(cache),
        )
        fitted.append((history, detector.fitted_state()))
    (plain, expected), (cached, found) = fitted
    assert cached.train_loss == pytest.approx(plain.train_loss, rel=1e-5)
    assert cached.validation_loss == pytest.approx(plain.validation_loss, rel=1e-5)
    # The biases of keys get rounding errors for a gradient, and Adam makes steps of them.
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-4)
    assert not (tmp_path / "True" / "cache").exists()


def test_the_files_stay_while_they_are_in_use_and_hold_every_image(tmp_path):
    data = Images(random_images(5))
    cached = CachedFeatures(data, lambda batch: {"twice": batch.image * 2}, tmp_path / "c", 2)
    for index in range(5):
        assert torch.equal(cached[Draw(0, index)]["twice"], data.image[index] * 2)
    (folder,) = tmp_path.iterdir()
    assert [file.stat().st_size for file in folder.iterdir()] == [data.image.numel() * 4]


def test_corrupted_images_cannot_be_cached(weights, tmp_path):
    detector = QFAE.build(offline_qfae(weights))
    options = FitOptions(epochs=1, batch_size=4, cache_features=True)
    with pytest.raises(ConfigError, match=r"cache_features .* config.corruption.strength=0"):
        detector.fit(Images(random_images(8)), options=options, run_dir=tmp_path)
