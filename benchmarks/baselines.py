"""Detectors to compare with that take no gradient step: PatchCore, and a CLIP that is only asked.

B images, D width, h w patch grid, S side
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from scanomaly.backbones.base import Backbone
from scanomaly.backbones.clip import build_clip
from scanomaly.config.data import InputSpec
from scanomaly.config.fit import FitOptions
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.maps import upsample
from scanomaly.methods import Detector
from scanomaly.methods.prompts import ensemble
from scanomaly.nn.patch_losses import level_map, text_logits
from scanomaly.records import Batch, Prediction
from scanomaly.training import Criterion, History, TrainingData


class Untrained(Detector):
    """What `evaluate` asks of a detector, and nothing to fit."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self._spec = spec

    @property
    def input_spec(self) -> InputSpec:
        return self._spec

    @classmethod
    def build(cls, config: Any) -> Self:
        raise NotImplementedError("baselines are made by the benchmark that uses them.")

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
        raise NotImplementedError("baselines are not trained.")


class PatchCore(Untrained):
    """Locally averaged features, a memory of normal patches, distance to the nearest of them.

    Source: Roth et al., CVPR 2022; the memory is a random sample instead of a coreset.
    """

    def __init__(self, backbone: Backbone, blocks: Sequence[int], spec: InputSpec) -> None:
        super().__init__(spec)
        self.backbone, self.blocks = backbone, blocks
        self.memory = torch.zeros(0, 0)

    def patches(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D, h, w) on the grid of the first level."""
        maps = self.backbone.extract(image, self.blocks).maps()
        size = maps[0].shape[-2:]
        means = [F.avg_pool2d(level, 3, 1, 1) for level in maps]
        levels = [F.interpolate(mean, size=size, mode="bilinear") for mean in means]
        return torch.cat(levels, dim=1)

    @torch.inference_mode()
    def remember(self, images: Iterable[Tensor], most: int, seed: int) -> Self:
        """Keep at most `most` patches of normal images, drawn at random with this seed."""
        found = [self.patches(image).flatten(2).transpose(1, 2).flatten(0, 1) for image in images]
        patches = torch.cat(found)
        generator = torch.Generator().manual_seed(seed)
        self.memory = patches[torch.randperm(len(patches), generator=generator)[:most]]
        return self

    @torch.inference_mode()
    def distances(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1, h, w)."""
        patches = self.patches(image)
        flat = patches.flatten(2).transpose(1, 2).flatten(0, 1)
        nearest = torch.cdist(flat, self.memory).amin(dim=1)
        return nearest.view(patches.shape[0], 1, *patches.shape[2:])

    def predict(self, batch: Batch) -> Prediction:
        distances = self.distances(batch.image)
        side = self.input_spec.side
        return Prediction(distances.amax(dim=(1, 2, 3)), upsample(distances, (side, side)))


class PromptedClip(Untrained):
    """A frozen CLIP and MVFA's prompt ensemble: image and patches against normal and abnormal.

    Score: probability that the image's feature is that of an abnormal prompt. Map: the same of the
    last block's patch tokens, projected like the class token.
    """

    def __init__(self, config: MVFAConfig, spec: InputSpec) -> None:
        super().__init__(spec)
        clip = build_clip(config.backbone)
        self.vision, self.scale = clip.vision, config.scale
        assert config.object is not None  # the caller named the data set
        self.register_buffer("words", ensemble(clip.text, config.object))

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Prediction:
        features = self.vision.extract(batch.image, (-1,))
        assert features.pooled is not None  # the last block was run
        network = self.vision.network
        patches = network.ln_post(features.patches[0]) @ network.proj
        score = self._logits(features.pooled[:, None])[:, 0].softmax(dim=-1)[:, 1]
        maps = level_map(self._logits(patches), self.vision.grid, self.input_spec.side)
        return Prediction(score, maps[:, 1:])

    def _logits(self, tokens: Tensor) -> Tensor:
        """(B, L, E) -> (B, L, 2)."""
        return text_logits(tokens, self.words, self.scale)  # type: ignore[arg-type]
