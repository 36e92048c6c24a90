"""MVFA: adapters between the blocks of a frozen CLIP, compared with text and a memory bank.

Few-shot or zero-shot. Source: CVPR 2024, arXiv 2403.12570, and the released code.

B images, L patches, D width, E width of text features, S side in pixels
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor, nn

from scanomaly.backbones.clip import Clip
from scanomaly.config.mvfa import AdapterConfig, MVFAConfig, object_words
from scanomaly.errors import FitError
from scanomaly.maps import upsample
from scanomaly.methods.base import LEFT_OUT_IN_TURN
from scanomaly.methods.clip_detector import (
    Branches,
    ClipDetector,
    known_masks,
    load_clip,
    require_labels,
    sampled,
)
from scanomaly.methods.prompts import Texts, ensemble, require_object
from scanomaly.nn.adapters import AdapterForm, Adapters
from scanomaly.nn.memory_bank import MemoryBank
from scanomaly.nn.patch_losses import (
    DETECTION_LOSSES,
    POOLINGS,
    dice,
    focal,
    level_map,
    patch_scores,
    text_logits,
)
from scanomaly.records import Batch, Embedding, Prediction
from scanomaly.training import TrainingData

HEADS = {"dual": ("seg", "det"), "single": ("both",)}
HEAD_WORDS = {"seg": "adapted, segmentation", "det": "adapted, detection", "both": "adapted"}
BRANCHES = {
    "zero_shot": ("zero_map", "zero_score"),
    "few_shot": ("zero_map", "zero_score", "few_map", "few_score"),
}
Levels = Mapping[str, Sequence[Tensor]]
"""Head -> bottleneck tokens (B, 1 + L, E) of each adapted block, the class token first."""


class Lesson(NamedTuple):
    """What a labelled batch teaches; what comes before the first adapter never changes.

    tokens: (B, 1 + L, D) that the first adapted block puts out. mask: bool (B, 1, S, S) and
    has_mask: bool (B,). words: int64 (B,), which text. owner: int64 (B,), equal for all copies
    of an image.
    """

    tokens: Tensor
    label: Tensor
    mask: Tensor
    has_mask: Tensor
    words: Tensor
    owner: Tensor


def owner_of(image_id: str) -> int:
    """A number for an image id, the same in every process."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest()) >> 1


@final
class MVFA(ClipDetector):
    """Gives a score, a map, and the maps of each level and branch."""

    teaches_parts: ClassVar[bool] = True  # images without masks do not teach segmentation
    text_features: Tensor
    localises: Tensor

    def __init__(self, config: MVFAConfig, clip: Clip) -> None:
        super().__init__(clip, config.side, BRANCHES[config.setting])
        self.config = config
        self.scored = [config.blocks.index(b) for b in config.scored_blocks or config.blocks]
        width, shared = clip.vision.width(config.blocks[0]), clip.text.embed_dim
        self.adapters = Adapters(
            width, shared, len(config.blocks), HEADS[config.adapters.heads], _form(config.adapters)
        )
        self.is_few_shot = config.setting == "few_shot"
        count = len(self.scored) if self.is_few_shot else 0
        self.banks = nn.ModuleList(MemoryBank(config.bank_precision) for _ in range(count))
        self.register_buffer("text_features", torch.zeros(shared, 2))
        self.register_buffer("localises", torch.tensor(True))
        self.texts = Texts(clip.text)

    @classmethod
    def left_out(cls, config: Any) -> str | None:
        """Of the memory bank; adapters have seen every image."""
        return LEFT_OUT_IN_TURN if config.setting == "few_shot" else None

    @classmethod
    def build(cls, config: Any) -> Self:
        """Raises WeightsError when weights are not here, ConfigError without words or blocks."""
        require_object(config.object)
        return cls(config, load_clip(config))

    def first_tokens(self, image: Tensor) -> Tensor:
        """What the first adapted block puts out, (B, 1 + L, D): no adapter comes before."""
        with torch.no_grad(), self.autocast():
            features = self.vision.extract(image.to(self.device), self.config.blocks[:1])
        return torch.cat([features.prefix[0], features.patches[0]], dim=1)

    def levels(self, tokens: Tensor, learns: Mapping[str, Tensor] | None = None) -> Levels:
        """From `first_tokens` on. learns: head -> bool (B,), whose loss may change the head."""
        blocks = self.config.blocks
        found: dict[str, list[Tensor]] = {head: [] for head in self.adapters.heads}

        def adapt(block: int, tokens: Tensor) -> Tensor:
            if block not in blocks:
                return tokens
            mixed, bottlenecks = self.adapters(blocks.index(block), tokens, learns)
            for head, bottleneck in bottlenecks.items():
                found[head].append(bottleneck)
            adapted: Tensor = mixed
            return adapted

        with self.autocast():
            mixed = adapt(blocks[0], tokens)
            if len(blocks) > 1:
                self.vision.run(mixed, blocks[1:], first=blocks[0] + 1, after_block=adapt)
        return found

    def head(self, wanted: str) -> str:
        """`seg` or `det`, or the one head there is."""
        return wanted if wanted in self.adapters.heads else "both"

    # Training

    def lesson(self, batch: Batch) -> Lesson:
        """Raises FitError for images without labels."""
        mask, has_mask = known_masks(batch)
        words, owner = torch.tensor(self._words_of(batch)), _owners(batch)
        label = require_labels(batch)
        parts = (self.first_tokens(batch.image), label, mask, has_mask, words, owner)
        return Lesson(*(part.to(self.device) for part in parts))

    def loss(self, lesson: Lesson) -> Tensor:
        """Detection of all images, segmentation of those with masks: a mean over images."""
        levels = self.levels(lesson.tokens, {"seg": lesson.has_mask})
        text = self._texts_of(lesson)
        with torch.autocast(self.device.type, enabled=False):
            detection = self._detection(levels[self.head("det")], text, lesson.label)
            if not bool(lesson.has_mask.any()):
                return detection
            rows = lesson.has_mask
            tokens = [level[rows] for level in levels[self.head("seg")]]
            segmentation = self._segmentation(tokens, text[rows], lesson.mask[rows])
            return detection + segmentation * rows.float().mean()

    def _detection(self, tokens: Sequence[Tensor], text: Tensor, label: Tensor) -> Tensor:
        criterion = DETECTION_LOSSES[self.config.loss.classification]
        pooled = self.config.loss.pooled
        scores = [patch_scores(self._logits(level, text), pooled) for level in tokens]
        return torch.stack([criterion(score, label) for score in scores]).sum()

    def _segmentation(self, tokens: Sequence[Tensor], text: Tensor, mask: Tensor) -> Tensor:
        maps = [self._level_map(level, text) for level in tokens]
        return torch.stack([focal(m, mask) + dice(m[:, 1], mask) for m in maps]).sum()

    def _logits(self, tokens: Tensor, text: Tensor) -> Tensor:
        """(B, L, 2) of the patches among tokens (B, 1 + L, E)."""
        return text_logits(tokens[:, 1:], text, self.config.scale)

    def _level_map(self, tokens: Tensor, text: Tensor) -> Tensor:
        """(B, 2, S, S)."""
        return level_map(self._logits(tokens, text), _grid(tokens), self.side)

    def prepare(self, train: TrainingData, size: int) -> None:
        """Encodes the texts and sees whether there are masks; FitError without two normals."""
        super().prepare(train, size)
        self.texts = Texts(self.text)
        self.text_features.copy_(ensemble(self.text, self._own_words()))
        masks, normals = [], []
        for batch in sampled(train, size):
            self._words_of(batch)
            masks.append(known_masks(batch)[1])
            normals.append(_owners(batch)[~require_labels(batch).cpu()])
        self.localises.fill_(bool(torch.cat(masks).any()))
        if self.is_few_shot and len(torch.cat(normals).unique()) < 2:
            raise FitError(
                "expected at least 2 normal images for the memory bank, got 1: each is left out "
                "in turn to find the bank's range; give more shots."
            )

    def complete(self, data: TrainingData, size: int) -> None:
        """Fill the banks with all normal images and copies, then fit the ranges."""
        self.eval()
        if self.is_few_shot:
            self._remember(data, size)
        super().complete(data, size)

    def _remember(self, data: TrainingData, size: int) -> None:
        kept: list[list[Tensor]] = [[] for _ in self.scored]
        owners: list[Tensor] = []
        first = 0 if self.config.bank_class_tokens else 1
        for lesson in map(self.as_lesson, sampled(data, size, most=None)):
            normal = ~lesson.label
            if not bool(normal.any()):
                continue
            owners.append(lesson.owner[normal])
            levels = self._drawing(self.levels(lesson.tokens[normal]))
            for level, tokens in zip(kept, levels, strict=True):
                level.append(tokens[:, first:])
        for bank, level in zip(self._banks(), kept, strict=True):
            bank.remember(torch.cat(level), torch.cat(owners))

    def lesson_branches(self, lesson: Lesson) -> Branches:
        return self.branches_of(self.levels(lesson.tokens), self._texts_of(lesson), lesson.owner)

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Let the banks take a saved state's size."""
        for index, bank in enumerate(self._banks()):
            names = (f"banks.{index}.tokens", f"banks.{index}.owner")
            if all(name in state for name in names):
                bank.make_room(*(state[name].shape for name in names))

    # Text

    def _words_of(self, batch: Batch) -> list[int]:
        """Which text belongs to each image: the target's, or in zero-shot its own data set's."""
        if self.is_few_shot or not batch.datasets:
            return [self.texts.index(self._own_words())] * len(batch)
        return [self.texts.index(object_words(name)) for name in batch.datasets]

    def _texts_of(self, lesson: Lesson) -> Tensor:
        """(B, E, 2)."""
        return self.texts.stacked().to(self.device)[lesson.words]

    def _own_words(self) -> str:
        assert self.config.object is not None  # as build required
        return self.config.object

    def _own_text(self) -> Tensor:
        """(E, 2) of the object; what was saved needs no text tower."""
        if not bool(self.text_features.any()):
            self.text_features.copy_(ensemble(self.text, self._own_words()))
        return self.text_features

    # Prediction

    @torch.no_grad()
    def raw_branches(self, batch: Batch, held_out: bool = False) -> Branches:
        """held_out: what the memory bank has of these images, by their ids, is left out."""
        levels = self.levels(self.first_tokens(batch.image))
        asking = _owners(batch).to(self.device) if held_out else None
        return self.branches_of(levels, self._own_text(), asking)

    def branches_of(self, levels: Levels, text: Tensor, asking: Tensor | None = None) -> Branches:
        """Branches and level maps. text: (E, 2) or (B, E, 2). asking: int64 (B,), left out."""
        drawing = self._drawing(levels)
        maps = [self._level_map(tokens, text)[:, 1:] for tokens in drawing]
        tokens = [levels[self.head("det")][index] for index in self.scored]
        by_paper = self.is_few_shot and self.config.score.few_shot == "paper"
        pooled = "max" if by_paper else self.config.score.pooled
        scores = [patch_scores(self._logits(level, text), pooled) for level in tokens]
        return {
            "zero_map": torch.stack(maps).mean(dim=0),
            "zero_score": torch.stack(scores).mean(dim=0),
            **self._by_block("zero", maps),
            **(self._few_branches(drawing, asking) if self.is_few_shot else {}),
        }

    def _few_branches(self, drawing: Sequence[Tensor], asking: Tensor | None) -> dict[str, Tensor]:
        distances = torch.stack(
            [
                bank.distances(tokens[:, 1:], asking)
                for bank, tokens in zip(self._banks(), drawing, strict=True)
            ]
        )  # (levels, B, L)
        grids = distances.unflatten(2, _grid(drawing[0]))
        fine = upsample(grids, (self.side, self.side), align_corners=True)[:, :, None]
        mean = fine.mean(dim=0)  # (B, 1, S, S)
        score = mean.mean(dim=(1, 2, 3))
        if self.config.score.few_shot == "paper":
            score = POOLINGS["max"](distances.mean(dim=0))
        return {"few_map": mean, "few_score": score, **self._by_block("few", list(fine))}

    def _by_block(self, branch: str, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        blocks = [self.config.blocks[index] for index in self.scored]
        return {f"{branch}_block_{b}": m for b, m in zip(blocks, maps, strict=True)}

    def fuse(self, raw: Branches) -> Prediction:
        parts, by_map = self.scaled(raw), self.config.score.zero_shot == "map_max"
        fused, score = parts["zero_map"], parts["zero_score"]
        if self.is_few_shot:
            few, by_map = self.config.score.few_weight, self.config.score.few_shot == "code"
            fused = (1 - few) * fused + few * parts["few_map"]
            score = (1 - few) * score + few * parts["few_score"]
        if by_map and bool(self.localises):
            score = fused.amax(dim=(1, 2, 3))
        return Prediction(score, fused, parts=parts)

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> list[Embedding]:
        """Patches of each level: of CLIP without adapters, and every head's bottlenecks."""
        self.eval()
        image, blocks = batch.image.to(self.device), self.config.blocks
        with self.autocast():
            frozen = self.vision.extract(image, blocks).patches
        stages = {"frozen CLIP": frozen}
        for head, levels in self.levels(self.first_tokens(image)).items():
            stages[HEAD_WORDS[head]] = tuple(tokens[:, 1:] for tokens in levels)
        return [
            Embedding("features", row, f"block {block}", patches)
            for row, levels in stages.items()
            for block, patches in zip(blocks, levels, strict=True)
        ]

    def _drawing(self, levels: Levels) -> list[Tensor]:
        """Tokens of the scored levels that draw maps: detection's where no mask ever taught."""
        head = self.head("seg" if bool(self.localises) else "det")
        return [levels[head][index] for index in self.scored]

    def _banks(self) -> list[MemoryBank]:
        return list(self.banks)  # type: ignore[arg-type]


def _owners(batch: Batch) -> Tensor:
    return torch.tensor([owner_of(image_id) for image_id in batch.ids])


def _form(config: AdapterConfig) -> AdapterForm:
    return AdapterForm(
        activation=config.activation,
        output_activation=config.output_activation,
        share=config.share,
        share_each=config.mixing == "each",
        feeds_back=config.kind == "adapter",
    )


def _grid(tokens: Tensor) -> tuple[int, int]:
    """Of the patches among tokens (B, 1 + L, E) of a square image."""
    side = math.isqrt(tokens.shape[1] - 1)
    return side, side
