"""Visual question answering: KQ-Former and the multi-image baseline (arXiv 2404.07622).

Defaults are the released code's; "spec" is the comparison of paper and code in its section 12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from scanomaly.config.backbones import BackboneConfig, PretrainedConfig
from scanomaly.config.base import Frozen
from scanomaly.config.experiment import Experiment
from scanomaly.config.fit import FitOptions
from scanomaly.errors import ConfigError

Slot = Literal["image", "anomaly_map", "reconstruction", "blank"]
"""What stands in one of the three places of a triple. blank: an image of normalised zeros."""
Slots = tuple[Slot, Slot, Slot]
Fusion = Literal["average", "concat", "channel"]


def _require_positions(max_tokens: int, positions: int) -> None:
    """Raises ValueError where a decoder has too few of them.

    Questions are asked together, shorter ones behind padding, which takes positions too.
    """
    if 2 * max_tokens > positions:
        raise ValueError(
            f"max_tokens {max_tokens} is more than half of the decoder's {positions} positions; "
            "lower the first or raise the second."
        )


def _require_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}.")


class VisualConfig(BackboneConfig):
    """The image encoder, shared by the three images and trained (spec section 4).

    Images come normalised to -1..1, whatever the weights were trained with.
    """

    name: str = "deit_base_patch16_224.fb_in1k"
    kind: Literal["vit", "cnn", "clip"] = "vit"
    """vit: final tokens, class token first. cnn: one stage's positions behind their mean. clip: the
    image tower's tokens (name and weights as in ClipConfig)."""
    side: int | None = Field(default=None, gt=0)
    """vit, clip: side in pixels of the images; None: the weights' own, published 224."""
    stage: int = Field(default=3, ge=0)
    """cnn: the last stage that is run, counted from 0 (strides 2, 4, 8, 16, 32). Published for
    ResNet-50: layer3, which is stage 3."""
    upsample: int | None = Field(default=None, gt=0)
    """cnn: side to which images are enlarged first, bilinear with aligned corners. Published for
    ResNet-50: 299."""
    positions: bool = False
    """cnn, not published: tell each token where it is. Otherwise only padding tells places apart;
    a ViT has positions of its own."""
    frozen: bool = False
    """Not published: keep the weights as they are and train only what reads their tokens."""
    arguments: Mapping[str, Any] = {}
    """Random weights: sizes other than the architecture's own, as timm takes them; for clip
    embed_dim, vision_cfg and text_cfg, as open_clip does."""
    patch: None = None
    mean: None = None
    std: None = None


class FormerConfig(PretrainedConfig):
    """The KQ-Former: BERT with cross-attention in every layer (spec section 5).

    Sizes (width, heads, hidden, positions, dropout) count for random weights; pretrained ones bring
    theirs.
    """

    name: str = "pritamdeka/BioBert-PubMed200kRCT"
    layers: int = Field(default=6, gt=0)
    """The first so many layers of the pretrained 12."""
    queries: int = Field(default=32, gt=0)
    """For each set of tokens. Published: 32 for concat, 96 for channel."""
    learned_queries: bool = False
    """False: zeros, so that position embeddings are the queries (code). True: learned (paper)."""
    width: int = Field(default=768, gt=0)
    heads: int = Field(default=12, gt=0)
    hidden: int = Field(default=3072, gt=0)
    """Of the feed-forwards."""
    positions: int = Field(default=512, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    head_hidden: int = Field(default=2048, gt=0)
    """Of the head behind concat: per token width -> head_hidden -> width, with batch norms."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        _require_heads(self.width, self.heads)
        if self.queries > self.positions:
            raise ValueError(f"queries {self.queries} are more than positions {self.positions}.")
        return self


class LanguageConfig(PretrainedConfig):
    """The decoder: GPT-2 with cross-attention to the memory (spec section 7). Sizes as above."""

    name: str = "openai-community/gpt2"
    tokenizer: Literal["gpt2", "words"] = "gpt2"
    """gpt2: the tokeniser beside the weights. words: whole words of the training questions and
    answers."""
    layers: int = Field(default=12, gt=0)
    width: int = Field(default=768, gt=0)
    heads: int = Field(default=12, gt=0)
    positions: int = Field(default=1024, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        _require_heads(self.width, self.heads)
        if self.tokenizer == "words" and not self.is_random:
            raise ValueError(
                "tokenizer words gives every word a new number, which pretrained weights do not "
                "know; set weights: random, or tokenizer: gpt2."
            )
        return self


DECODING = ("beams", "greedy", "reference_decoding")
"""Fields of VqaConfig that may differ from those in training: run.yaml or `--set` decides."""


class VqaConfig(Frozen):
    """Everything that decides an answerer, besides its training."""

    visual: VisualConfig = VisualConfig()
    former: FormerConfig | None = FormerConfig()
    """None: the multi-image baseline (MI)."""
    decoder: LanguageConfig = LanguageConfig()
    fusion: Fusion = "concat"
    """concat and channel are published for both; average for MI alone, with a former it is our
    extension: the mean of the three sets of queries."""
    slots: Slots = ("image", "anomaly_map", "reconstruction")
    """What the three places hold; image-type ablations change it (spec section 3)."""
    memory_tokens: int = Field(default=96, gt=0)
    """MI concat: rows of memory for the decoder."""
    memory_hidden: int = Field(default=128, gt=0)
    """MI concat: rows between, without an activation (code)."""
    loss: Literal["tokens", "first_tokens"] = "tokens"
    """tokens: the mean over all tokens of a batch's answers (code). first_tokens: the n-th token of
    an answer weighs 1/n, as the first ones decide it and the rest is wording; not published."""
    max_tokens: int = Field(default=100, gt=1)
    """Of question and answer together."""
    beams: int = Field(default=5, gt=0)
    """Width of the beam search (paper)."""
    greedy: bool = False
    """The likeliest token of each step makes the answer, and beams only what else it might be. The
    likeliest text as a whole is a short one where a fact has many wordings: "No." though "Yes" is
    the likelier beginning."""
    reference_decoding: bool = False
    """As the released code decodes: greedily, whatever `beams`, with the end token in the place of
    the question's first token (spec section 9)."""

    @property
    def decoding(self) -> dict[str, Any]:
        """The fields of DECODING with their values."""
        return {name: getattr(self, name) for name in DECODING}

    @model_validator(mode="after")
    def _positions_suffice(self) -> Self:
        if self.decoder.is_random:
            _require_positions(self.max_tokens, self.decoder.positions)
        return self


class VqaDataConfig(Frozen):
    """How the three images become tensors, and which items train (spec sections 2 and 3)."""

    window: tuple[float, float] | None = None
    """Intensities mapped to 0 and 1 for pictures deeper than 8 bits."""
    colour: Literal["rgb", "bgr"] = "rgb"
    """Published: bgr, OpenCV's order."""
    resize: int = Field(default=256, gt=0)
    """Side to which images are resized, bilinear."""
    crop: int = Field(default=224, gt=0)
    """Side of the random crop in training, of the centre crop otherwise."""
    jitter: float = Field(default=0.5, ge=0, lt=1)
    """Training: brightness, contrast and saturation factors in 1 - jitter .. 1 + jitter."""
    joint_crop: bool = False
    """One crop and one jitter for the three images, so that places and differences agree.
    Published: each image has its own."""
    mirror: bool = False
    """Training: every second item is mirrored, left to right, and `left` and `right` change places
    in its texts. Not published."""
    items: Literal["questions", "triples"] = "questions"
    """What one training item (fit.batch_size counts them) is: one question about a triple, as
    published, or a triple with all its questions, whose images are then encoded once."""
    exclude_unseen: bool = False
    """Open-set experiment: train and choose the checkpoint without the six unseen kinds."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(
                f"data.crop {self.crop} is larger than data.resize {self.resize}; lower the crop."
            )
        return self


PUBLISHED_FIT = FitOptions(
    epochs=40,
    batch_size=48,
    learning_rate=1.5e-5,
    optimiser="adamw",
    schedule="warm_up_cosine",
    warm_up=0.4,
    weight_decay=0.05,
    patience=10,
)
"""Spec section 8."""


class VqaRun(Experiment):
    """Everything that decides an answerer, besides the corpus."""

    def decoding_as(self, assignments: Sequence[str]) -> Self:
        """The run with another decoding, as of `--set`. Raises ConfigError for any other field."""
        allowed = [f"config.{name}" for name in DECODING]
        for assignment in assignments:
            path = assignment.partition("=")[0].strip()
            if path not in allowed:
                raise ConfigError(
                    f"--set {path}: of a fitted answerer only the decoding can change: "
                    f"{', '.join(allowed)}; for anything else fit another one."
                )
        return self.with_overrides(assignments)

    kind: Literal["vqa"] = "vqa"
    config: VqaConfig = VqaConfig()
    data: VqaDataConfig = VqaDataConfig()
    fit: FitOptions = PUBLISHED_FIT

    @model_validator(mode="after")
    def _images_fit_the_encoder(self) -> Self:
        side = self.config.visual.side
        if side is not None and side != self.data.crop:
            raise ValueError(
                f"config.visual.side {side} and data.crop {self.data.crop} are the same side; "
                "set both."
            )
        return self

    @model_validator(mode="after")
    def _only_what_applies(self) -> Self:
        if self.fit.warm_start is not None or self.fit.cache_features:
            raise ValueError(
                "fit.warm_start and fit.cache_features are for detectors; leave them out."
            )
        return self
