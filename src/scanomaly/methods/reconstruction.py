"""What QFAE and the plain autoencoder share: encoder -> bottleneck -> decoder -> differences.

B images, T context tokens, D width, H W pixels
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from scanomaly.backbones import build_backbone, build_views
from scanomaly.backbones.base import Backbone
from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.data import InputSpec
from scanomaly.config.fit import FitOptions
from scanomaly.config.qfae import ReconstructionConfig, ViewsConfig
from scanomaly.errors import ConfigError
from scanomaly.maps import IMAGE_SCORES, PIXEL_MAPS, geometric_mean, mean_filter
from scanomaly.methods.base import Detector, PaperProtocol
from scanomaly.methods.feature_cache import CachedFeatures
from scanomaly.methods.perceptual import PerceptualModel, Views
from scanomaly.methods.token_encoder import TokenEncoder
from scanomaly.nn.corruption import coarse_noise
from scanomaly.nn.distances import FEATURE_DISTANCES, PIXEL_DISTANCES
from scanomaly.nn.expected_score import ExpectedScore, grey_shares
from scanomaly.nn.image_decoder import ImageDecoder
from scanomaly.records import Batch, Draw, Embedding, Prediction
from scanomaly.training import (
    Criterion,
    History,
    Objective,
    TrainingData,
    optimise,
    training_device,
)

SCALE_IMAGES = 128
"""Training images from which channels are standardised."""
EXPECTATION_IMAGES = 1024
"""Training images from which the score of a healthy image is learned."""


class Observation(NamedTuple):
    """All that frozen networks see in an image: computed once, without gradient.

    context: per encoder, (B, T, D). reference: feature maps at the views of a comparison.
    image: (B, 3, H, W) in 0..1.
    """

    image: Tensor
    context: tuple[Tensor, ...]
    reference: tuple[Tensor, ...]


class ReconstructionDetector(Detector):
    """Reconstructs an image from frozen tokens and scores what it cannot reconstruct."""

    paper = PaperProtocol(last_batch_lost=64)
    always_fitted = ("expected_score.",)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: ReconstructionConfig,
        encoders: Sequence[TokenEncoder],
        bottleneck: nn.Module,
        decoder: ImageDecoder,
        perceptual: PerceptualModel,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList(encoders)
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.perceptual = perceptual
        self.loss_views = _views(config.loss_views)
        self.score_views = _views(config.score_views)
        self.expected_score = ExpectedScore() if config.score.relative else None
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def build(cls, config: Any) -> Self:
        """Raises WeightsError when a pretrained weight is not here, saying how to get it."""
        built = _SharedBackbones()
        encoders = [
            TokenEncoder(
                built.get(encoder.backbone),
                encoder.blocks,
                cls.width(config),
                side=config.side,
                merge=encoder.merge,
                standardise=encoder.standardise,
                positions=encoder.positions,
            )
            for encoder in config.encoders
        ]
        decoder = ImageDecoder(
            cls.width(config),
            (config.grid, config.grid),
            config.decoder.patch,
            width=config.decoder.width,
            depth=config.decoder.depth,
            heads=config.decoder.heads,
            channels=config.decoder.channels,
            norm_eps=config.decoder.norm_eps,
            mlp_ratio=config.decoder.mlp_ratio,
        )
        return cls(
            config, encoders, cls.build_bottleneck(config), decoder, _perceptual(config, built)
        )

    @staticmethod
    @abstractmethod
    def width(config: Any) -> int:
        """Width of the context tokens."""

    @staticmethod
    @abstractmethod
    def build_bottleneck(config: Any) -> nn.Module:
        """Context tokens (B, T, D) -> decoder tokens (B, L, D)."""

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(side=self.config.side)

    def observe(self, image: Tensor, views: Views) -> Observation:
        """What the frozen networks see in images (B, 3, H, W) in 0..1."""
        corruption = self.config.corruption
        seen = image
        if self.training and corruption.strength > 0:
            seen = coarse_noise(image, corruption.strength, corruption.cells)
        with torch.no_grad(), self.autocast():
            context = tuple(encoder.tokens(seen) for encoder in self.token_encoders())
            reference = self.perceptual.features(image, views) if self._needs_features() else ()
        return Observation(image, context, reference)

    def reconstruct(self, context: Sequence[Tensor]) -> Tensor:
        """Raw reconstruction (B, 3, H, W) in 0..1 up to overshoot: not clamped."""
        normalised: Tensor = self.decoder(self.bottleneck_tokens(context))
        return normalised.float() * self.std + self.mean

    def bottleneck_tokens(self, context: Sequence[Tensor]) -> Tensor:
        """What the decoder sees: (B, L, D)."""
        projected = [
            encoder(tokens) for encoder, tokens in zip(self.token_encoders(), context, strict=True)
        ]
        tokens: Tensor = self.bottleneck(torch.cat(projected, dim=1))
        return tokens

    def loss(self, observation: Observation) -> Tensor:
        """Mean over all criteria's values (paper Eq. 2 and supplement 6.2)."""
        reconstruction = self.reconstruct(observation.context)
        values = [
            term.weight
            * self._differences(term.kind, observation, reconstruction, self.loss_views)
            .mean(dim=(2, 3, 4))
            .flatten()
            for term in self.config.loss
        ]
        return torch.cat(values).mean()

    def fit(
        self,
        train: TrainingData,
        validation: TrainingData | None = None,
        *,
        options: FitOptions,
        run_dir: Path,
        resume: bool = False,
        criterion: Criterion | None = None,
    ) -> History:
        """Train projections, bottleneck and decoder; the frozen networks stay untouched."""

        if options.cache_features and self.config.corruption.strength > 0:
            raise ConfigError(
                "fit.cache_features keeps the features of unchanged images; set "
                "config.corruption.strength=0 or switch the cache off."
            )
        images = train
        self.train()  # Lightning keeps the mode it finds, and predict leaves eval mode behind
        self._fit_scales(train)
        self.use_precision(options.precision)
        self.to(training_device(options))

        def observe(batch: Batch) -> Observation:
            return self.observe(batch.image.to(self.device), self.loss_views)

        def loss(items: Batch | Observation) -> Tensor:
            return self.loss(observe(items) if isinstance(items, Batch) else items)

        if options.cache_features:
            size = options.micro_batch
            train = CachedFeatures(train, observe, run_dir / "cache" / "train", size)
            if validation is not None:
                validation = CachedFeatures(
                    validation, observe, run_dir / "cache" / "validation", size
                )
        try:
            objective = Objective(self, loss, train, validation, criterion=criterion)
            history = optimise(objective, options, run_dir, resume=resume)
        finally:
            shutil.rmtree(run_dir / "cache", ignore_errors=True)
        self._fit_expected_score(images, options.micro_batch)
        return history

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        self.eval()
        found = self._predict(batch.image)
        if self.config.score.mirror:
            found = _mean(found, self._predict(batch.image.flip(-1)))
        if self.expected_score is None:
            return found
        expected = self.expected_score(found.reconstruction)
        return replace(
            found,
            score=found.score / expected,
            anomaly_map=found.anomaly_map / expected.view(-1, 1, 1, 1),
        )

    def _predict(self, image: Tensor) -> Prediction:
        observation = self.observe(image, self.score_views)
        with self.autocast():
            reconstruction = self.reconstruct(observation.context)
            maps = self._score_maps(observation, reconstruction)
        return Prediction(
            score=IMAGE_SCORES[self.config.score.image](maps),
            anomaly_map=PIXEL_MAPS[self.config.score.pixel](maps),
            reconstruction=reconstruction.clamp(0, 1),
        )

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> list[Embedding]:
        """Mean token of each frozen encoder, and of what the decoder sees."""
        self.eval()
        context = self.observe(batch.image, Views((), ())).context
        with self.autocast():
            bottleneck = self.bottleneck_tokens(context)
        return [
            *(
                Embedding("features", "mean token", encoder.backbone.name, tokens.mean(dim=1))
                for encoder, tokens in zip(self.config.encoders, context, strict=True)
            ),
            Embedding("features", "mean token", "bottleneck", bottleneck),
        ]

    def _score_maps(self, observation: Observation, reconstruction: Tensor) -> Tensor:
        """Difference maps (maps, B, 1, H, W) from which scores are taken."""
        score = self.config.score
        each = [
            self._differences(source, observation, reconstruction, self.score_views)
            for source in score.sources
        ]
        maps = each[0] if len(each) == 1 else geometric_mean(torch.stack([m.mean(0) for m in each]))
        return mean_filter(maps.flatten(0, 1), score.smooth).view_as(maps)

    def _differences(
        self, kind: str, observation: Observation, reconstruction: Tensor, views: Views
    ) -> Tensor:
        """Difference maps (maps, B, 1, H, W) in fp32."""
        if kind == "perceptual":
            features = self.perceptual.features(reconstruction, views)
            return self.perceptual.compare(
                observation.reference, features, views, reconstruction.shape[-1]
            )
        pair = ((image - self.mean) / self.std for image in (observation.image, reconstruction))
        return PIXEL_DISTANCES[kind](*pair)[None]

    def _fit_scales(self, train: TrainingData) -> None:
        """Standardise by an even sample of training images, unless a warm start already did."""
        encoders = [e for e in self.token_encoders() if e.standardise and not e.is_fitted]
        if encoders:
            items = [train[draw] for draw in _spread(train, SCALE_IMAGES)]
            for encoder in encoders:
                encoder.fit_scale(train.collate(items).image)

    def _fit_expected_score(self, train: TrainingData, size: int) -> None:
        """Learn the healthy score from an even sample of training images, not augmented."""
        if self.expected_score is None:
            return
        self.use_precision("fp32")  # as images are scored later
        self.expected_score.reset()
        draws = _spread(train, EXPECTATION_IMAGES)
        shares, scores = [], []
        for start in range(0, len(draws), size):
            images = train.collate([train[draw] for draw in draws[start : start + size]])
            found = self.predict(images.to(self.device))
            assert found.reconstruction is not None  # this method makes one
            shares.append(grey_shares(found.reconstruction))
            scores.append(found.score)
        self.expected_score.fit(torch.cat(shares), torch.cat(scores))

    def _needs_features(self) -> bool:
        kinds = {term.kind for term in self.config.loss} | set(self.config.score.sources)
        return "perceptual" in kinds

    def token_encoders(self) -> list[TokenEncoder]:
        return list(self.encoders)  # type: ignore[arg-type]


class _SharedBackbones:
    """Builds each backbone once, however many parts use it."""

    def __init__(self) -> None:
        self._built: dict[BackboneConfig, Backbone] = {}

    def get(self, config: BackboneConfig) -> Backbone:
        if config not in self._built:
            self._built[config] = build_backbone(config)
        return self._built[config]


def _spread(train: TrainingData, count: int) -> list[Draw]:
    """About `count` images, evenly over the set."""
    step = max(1, len(train) // count)
    return [Draw(None, index) for index in range(0, len(train), step)]


def _mean(image: Prediction, mirrored: Prediction) -> Prediction:
    """Of what was found in an image and in its left-right mirror."""
    return replace(
        image,
        score=(image.score + mirrored.score) / 2,
        anomaly_map=(image.anomaly_map + mirrored.anomaly_map.flip(-1)) / 2,
    )


def _views(config: ViewsConfig) -> Views:
    return Views(config.blocks, config.patches or config.sides, config.multiply)


def _perceptual(config: ReconstructionConfig, built: _SharedBackbones) -> PerceptualModel:
    """One network per patch size, sharing their blocks, or one network for every side."""
    backbone = config.perceptual.backbone
    wanted = (config.loss_views, config.score_views)
    patches = sorted({patch for views in wanted for patch in views.patches})
    sides = {side for views in wanted for side in views.sides}
    networks = (
        dict(zip(patches, build_views(backbone, patches), strict=True))
        if patches
        else dict.fromkeys(sides, built.get(backbone))
    )
    return PerceptualModel(
        networks,
        FEATURE_DISTANCES[config.perceptual.distance],
        resize=bool(config.loss_views.sides),
    )
