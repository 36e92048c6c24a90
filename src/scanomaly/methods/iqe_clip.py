"""IQE-CLIP: instance-aware query embeddings on a frozen CLIP, for few or no labelled images.

Source: arXiv 2506.10730 and the released code.

B images, I levels, L patches, D width, E width of text and image features, S side in pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.backbones.clip import Clip, tokenize
from scanomaly.config.iqe_clip import IqeClipConfig
from scanomaly.errors import ConfigError
from scanomaly.methods.clip_detector import (
    Branches,
    ClipDetector,
    known_masks,
    load_clip,
    require_labels,
)
from scanomaly.nn.deep_prompts import ClassTokens, DeepPrompts, PromptedText
from scanomaly.nn.gaussian import gaussian_filter
from scanomaly.nn.instance_queries import InstanceQueries
from scanomaly.nn.patch_losses import (
    DETECTION_LOSSES,
    dice,
    focal,
    level_map,
    patch_scores,
)
from scanomaly.records import Batch, Embedding, Prediction

FIRST_TEMPERATURE = 0.07
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"none": nn.Identity(), "relu": F.relu}

STATES = ("normal", "abnormal")
"""Of the two sentences and queries, in their order."""

Logits = Mapping[str, Tensor]
"""Branch (text, query) -> (I, B, L, 2), normal first."""


class Observation(NamedTuple):
    """All that the frozen image tower sees: computed once, without gradient.

    pooled: class features (B, E). patches: (B, L, D) of each level.
    """

    pooled: Tensor
    patches: tuple[Tensor, ...]


class Lesson(NamedTuple):
    """What a labelled batch teaches.

    label: bool (B,). mask: bool (B, 1, S, S). has_mask: bool (B,), whose masks are known.
    """

    observation: Observation
    label: Tensor
    mask: Tensor
    has_mask: Tensor


@final
class IqeClip(ClipDetector):
    """Gives a score and a map from two branches: patches against text, and against queries."""

    def __init__(self, config: IqeClipConfig, clip: Clip) -> None:
        super().__init__(clip, config.side, ("map", "score"))
        self.config = config
        width = self.vision.embed_dim
        prompts, queries = config.prompts, config.queries
        self.levels = nn.ModuleList(
            nn.Linear(self.vision.width(block), width) for block in config.blocks
        )
        self.activation = ACTIVATIONS[config.level_activation]
        self.class_tokens = _class_tokens(width, prompts.class_tokens, prompts.condition)
        learned = DeepPrompts(width, prompts.learned, self.text.depth) if prompts.learned else None
        self.prompted_text = PromptedText(tokenize(config.sentences), learned)
        self.class_queries, self.instance_queries = None, None
        if queries is not None:
            self.class_queries = _class_tokens(width, len(config.sentences), queries.condition)
            self.instance_queries = InstanceQueries(
                width,
                depth=queries.depth,
                heads=queries.heads,
                hidden=queries.hidden,
                dropout=queries.dropout,
                order=queries.order,
                image=queries.image,
                text=queries.text,
            )
        self.log_temperature = None
        if config.temperature == "learned":
            self.log_temperature = nn.Parameter(torch.tensor(-math.log(FIRST_TEMPERATURE)))

    @classmethod
    def build(cls, config: Any) -> Self:
        """Raises WeightsError or ConfigError, which say what to do."""
        clip = load_clip(config)
        _check_sizes(config, clip)
        detector = cls(config, clip)
        rows = detector.prompted_text.rows(config.prompts.class_tokens)
        if rows > clip.text.context:
            raise ConfigError(
                f"sentences, class_tokens and learned tokens need {rows} rows and the text tower "
                f"has {clip.text.context}; shorten config.sentences or take fewer tokens."
            )
        return detector

    def observe(self, image: Tensor) -> Observation:
        """What the frozen image tower sees in images (B, 3, S, S) in 0..1."""
        with torch.no_grad(), self.autocast():
            features = self.vision.extract(image, (*self.config.blocks, -1))
        assert features.pooled is not None  # the last block was run
        return Observation(features.pooled, features.patches[:-1])

    def embed(self, observation: Observation) -> tuple[Tensor, dict[str, Tensor]]:
        """Adapted levels (I, B, L, E), and each branch's two embeddings (I, B, 2, E)."""
        levels = self.adapted(observation.patches)
        text = self.text_features(observation.pooled)  # (B or 1, 2, E)
        embeddings = {"text": text.expand(*levels.shape[:2], -1, -1)}
        if self.instance_queries is not None and self.class_queries is not None:
            start = self.class_queries(observation.pooled.float())
            embeddings["query"] = self.instance_queries(start, levels, text)
        return levels, embeddings

    def compare(self, observation: Observation) -> Logits:
        """Cosines of every patch with both branches' embeddings, times the temperature."""
        levels, embeddings = self.embed(observation)
        with torch.autocast(levels.device.type, enabled=False):
            directions = F.normalize(levels.float(), dim=-1)
            logits = {
                branch: directions @ F.normalize(both.float(), dim=-1).transpose(-1, -2)
                for branch, both in embeddings.items()
            }
            if self.log_temperature is not None:
                logits["text"] = logits["text"] * self.log_temperature.exp()
            return logits

    def adapted(self, patches: tuple[Tensor, ...]) -> Tensor:
        """(B, L, D) of each level -> (I, B, L, E) in the space of the text."""
        return torch.stack(
            [
                self.activation(linear(tokens))
                for linear, tokens in zip(self.levels, patches, strict=True)
            ]
        )

    def text_features(self, pooled: Tensor) -> Tensor:
        """Class features (B, E) -> unit vectors (B, 2, E); (1, 2, E) if all images share them."""
        tokens = None if self.class_tokens is None else self.class_tokens(pooled.float())
        features: Tensor = self.prompted_text(self.text, tokens)
        return features

    def maps(self, logits: Tensor) -> Tensor:
        """(I, B, L, 2) -> probabilities (I, B, 2, S, S)."""
        flat = level_map(logits.flatten(0, 1), self.vision.grid, self.side)
        maps: Tensor = flat.unflatten(0, logits.shape[:2])
        return maps

    def loss(self, lesson: Lesson) -> Tensor:
        """Weighted sum over branches and levels (paper Eq. 14), a mean over images."""
        weights = self.config.loss.weights.model_dump()
        branches = self.compare(lesson.observation).items()
        losses = [
            weights[name] * self.branch_loss(logits, lesson).sum() for name, logits in branches
        ]
        return torch.stack(losses).sum()

    def branch_loss(self, logits: Tensor, lesson: Lesson) -> Tensor:
        """Focal, dice and classification loss of one branch (3,), each summed over levels.

        The first two of the images whose masks are known, by their share of the batch.
        """
        levels, options = logits.shape[0], self.config.loss
        scores = patch_means(logits) if options.pooled == "patch_mean" else self._maxima(logits)
        criterion = DETECTION_LOSSES[options.classification]
        classification = criterion(scores.flatten(), lesson.label.repeat(levels))
        known = lesson.has_mask
        segmentation = [logits.new_zeros(())] * 2
        if bool(known.any()):
            maps = self.maps(logits[:, known]).flatten(0, 1)
            mask = lesson.mask[known].repeat(levels, 1, 1, 1)
            share = known.float().mean()
            segmentation = [focal(maps, mask) * share, dice(maps[:, 1], mask) * share]
        return levels * torch.stack([*segmentation, classification])

    def _maxima(self, logits: Tensor) -> Tensor:
        """(I, B, L, 2) -> (I, B)."""
        return self.maps(logits)[:, :, 1].amax(dim=(2, 3))

    @property
    def rates(self) -> Mapping[str, float]:
        return {"log_temperature": self.config.temperature_rate}

    def lesson(self, batch: Batch) -> Lesson:
        """Raises FitError for images without labels."""
        batch = batch.to(self.device)
        label = require_labels(batch)
        return Lesson(self.observe(batch.image), label, *known_masks(batch))

    def lesson_branches(self, lesson: Lesson) -> Branches:
        return self._scored(lesson.observation)

    @torch.no_grad()
    def raw_branches(self, batch: Batch, held_out: bool = False) -> Branches:
        """As `scored`; a training image leaves no trace beyond the weights."""
        return self._scored(self.observe(batch.image.to(self.device)))

    def _scored(self, observation: Observation) -> Branches:
        with self.autocast():
            logits = self.compare(observation)
        return self.scored(logits)

    def scored(self, logits: Logits) -> Branches:
        """Logits to `map` (B, 1, S, S), `score` (B,), and both branches' parts, before ranges."""
        options = self.config.score
        weights = options.weights.model_dump()
        levels = {branch: self.maps(found)[:, :, 1:] for branch, found in logits.items()}
        branches = {branch: maps.mean(dim=0) for branch, maps in levels.items()}
        fused = torch.stack([weights[branch] * one for branch, one in branches.items()]).sum(dim=0)
        anomaly_map = gaussian_filter(fused, options.sigma)
        image_score = IMAGE_SCORES[options.image]
        parts: dict[str, Tensor] = {}
        for branch, maps in levels.items():
            mean = branches[branch]
            parts[f"{branch}_map"] = mean
            parts[f"{branch}_score"] = image_score(
                Scored({branch: logits[branch]}, {branch: mean}, mean)
            )
            for block, one in zip(self.config.blocks, maps, strict=True):
                parts[f"{branch}_block_{block}"] = one
        score = image_score(Scored(logits, branches, anomaly_map))
        return {"map": anomaly_map, "score": score, **parts}

    def fuse(self, raw: Branches) -> Prediction:
        """Map and score on the scale of the training images; branches and levels as parts."""
        scaled = self.scaled(raw)
        score, anomaly_map = scaled.pop("score"), scaled.pop("map")
        return Prediction(score, anomaly_map, parts=scaled)

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> list[Embedding]:
        """Patches of each level before and after its map; text beside query embeddings."""
        self.eval()
        observation = self.observe(batch.image.to(self.device))
        with self.autocast():
            levels, branches = self.embed(observation)
        found: list[Embedding] = []
        for index, block in enumerate(self.config.blocks):
            column = f"block {block}"
            stages = {"frozen CLIP": observation.patches[index], "adapted": levels[index]}
            found += [Embedding("features", row, column, one) for row, one in stages.items()]
            found += [
                Embedding("prompts", "embeddings", column, both[index, :, row], f"{branch} {state}")
                for branch, both in branches.items()
                for row, state in enumerate(STATES)
            ]
        return found


class Scored(NamedTuple):
    """What an image score may be taken from."""

    logits: Logits
    maps: Mapping[str, Tensor]
    """Branch -> its levels' mean (B, 1, S, S)."""
    anomaly_map: Tensor


def patch_means(logits: Tensor) -> Tensor:
    """Abnormal probability, mean over patches: (I, B, L, 2) -> (I, B)."""
    means: Tensor = patch_scores(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
    return means


def _patch_mean(scored: Scored) -> Tensor:
    return torch.stack([patch_means(found) for found in scored.logits.values()]).sum(dim=(0, 1))


def _map_mean(scored: Scored) -> Tensor:
    return torch.stack([maps.mean(dim=(1, 2, 3)) for maps in scored.maps.values()]).sum(dim=0)


def _map_max(scored: Scored) -> Tensor:
    return scored.anomaly_map.amax(dim=(1, 2, 3))


IMAGE_SCORES: Mapping[str, Callable[[Scored], Tensor]] = {
    "patch_mean": _patch_mean,
    "map_mean": _map_mean,
    "map_max": _map_max,
}


def _class_tokens(width: int, count: int, condition: str) -> ClassTokens | None:
    if count == 0:
        return None
    return ClassTokens(width, count, None if condition == "none" else condition)


def _check_sizes(config: IqeClipConfig, clip: Clip) -> None:
    """Raises ConfigError for a CLIP or a number of heads that IQE-CLIP cannot use."""
    width = clip.vision.embed_dim
    if clip.text.width != width:
        raise ConfigError(
            f"class features of width {width} become tokens of a text tower of width "
            f"{clip.text.width} in {config.backbone.name}; choose a CLIP where both are equal, "
            "such as ViT-L-14-336/openai."
        )
    if config.queries is not None and width % config.queries.heads:
        raise ConfigError(
            f"queries.heads {config.queries.heads} does not divide the feature width {width}; "
            "choose one that does."
        )
