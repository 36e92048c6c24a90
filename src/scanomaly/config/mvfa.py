"""MVFA: every choice in which paper (arXiv 2403.12570) and released code differ, and ablations.

Defaults are the released code, few-shot; "spec" is the comparison of the two in its section 11.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from scanomaly.config.base import Frozen
from scanomaly.config.clip import ClipMethodConfig

OBJECT_WORDS: Mapping[str, str] = {
    "Brain": "Brain",
    "Liver": "Liver",
    "Retina_RESC": "retinal OCT",
    "Retina_OCT2017": "retinal OCT",
    "Chest": "Chest X-ray film",
    "Histopathology": "histopathological image",
}
"""Data set -> what its images show, as the published prompts call it (spec section 5)."""

Activation = Literal["leaky_relu", "relu", "none"]
Pooling = Literal["mean", "max"]


def object_words(dataset: str) -> str:
    """What the images of a data set show; for an unknown one its own name, as words."""
    return OBJECT_WORDS.get(dataset, dataset.replace("_", " ").strip())


def words_for(dataset: str, given: str | None) -> str:
    """The given words, unless there are none or they are those of another published data set.

    The latter come with the run.yaml of a run on that set, and would say the wrong thing here.
    """
    others = {words for name, words in OBJECT_WORDS.items() if name != dataset}
    if given is None or (dataset in OBJECT_WORDS and given in others):
        return object_words(dataset)
    return given


class AdapterConfig(Frozen):
    """The bottlenecks between the frozen blocks (paper section 3.1)."""

    kind: Literal["adapter", "projector"] = "adapter"
    """projector: one linear per level; CLIP's own tokens stay as they are (paper Table 4)."""
    heads: Literal["dual", "single"] = "dual"
    """single: one for segmentation and detection together (paper, ablation of dual adapters)."""
    activation: Activation = "leaky_relu"
    """Of the bottleneck. Code: LeakyReLU 0.01; paper: ReLU."""
    output_activation: Activation = "leaky_relu"
    """Of the way back. Code: LeakyReLU 0.01; paper: none."""
    share: float = Field(default=0.1, ge=0, lt=0.5)
    """gamma: of an adapter's output in what the next block sees."""
    mixing: Literal["each", "together"] = "each"
    """each: every adapter has that share, 0.8 x + 0.1 + 0.1 (code). together: all adapters share
    it, 0.9 x + 0.1 of their mean (paper: 0.9 x + 0.1 A(x))."""


class LossConfig(Frozen):
    """The detection loss (paper section 3.2); segmentation is focal + dice in both."""

    pooled: Pooling = "mean"
    """Over patches, to an image's probability. Code: mean; paper: max."""
    classification: Literal["logits", "plain"] = "logits"
    """Binary cross-entropy of that probability: as a logit (code), or as it is (paper)."""


class ScoreConfig(Frozen):
    """From branches to an image score and a map (paper section 3.3)."""

    pooled: Pooling = "mean"
    """As in the loss, for zero-shot image scores and those of label-only data sets."""
    zero_shot: Literal["code", "map_max"] = "code"
    """code: what the detection adapters say of the image. map_max: the maximum of the map where the
    training images have masks (ours, as few-shot does)."""
    few_shot: Literal["code", "paper"] = "code"
    """code: the maximum of the fused map where the training images have masks, else zero and few
    scores mixed. paper: zero and few scores mixed, both the maximum over patches."""
    few_weight: float = Field(default=0.5, ge=0, le=1)
    """beta2, the share of the memory bank's branch; beta1 is the rest."""


class MVFAConfig(ClipMethodConfig):
    """MVFA as released; `blocks` are the adapted levels."""

    setting: Literal["few_shot", "zero_shot"] = "few_shot"
    """few_shot: text and a memory bank of the normal training images. zero_shot: text alone."""
    object: str | None = Field(default=None, min_length=1)
    """What the images show, in the words of the prompts. None: filled from the data set's name."""
    scored_blocks: tuple[int, ...] = ()
    """The levels that are scored; empty: all (paper Table 5 trains all and scores single ones)."""
    adapters: AdapterConfig = AdapterConfig()
    scale: float = Field(default=100.0, gt=0)
    """Of the cosines between patches and text (spec section 6)."""
    loss: LossConfig = LossConfig()
    score: ScoreConfig = ScoreConfig()
    bank_class_tokens: bool = True
    """Whether the memory bank keeps class tokens beside patches. Code: yes; paper: patches only."""
    bank_precision: Literal["fp32", "fp16"] = "fp32"
    """What the memory bank is held and saved in. fp16 halves a few-shot run folder (K = 4: 79
    instead of 157 MB); distances change by about 1e-5."""

    def for_dataset(self, name: str) -> Self:
        """With the words of that data set, unless words of one's own were given."""
        return self.model_copy(update={"object": words_for(name, self.object)})

    @model_validator(mode="after")
    def _scored_levels_are_adapted(self) -> Self:
        if not set(self.scored_blocks) <= set(self.blocks):
            raise ValueError(
                f"scored_blocks {self.scored_blocks} must be among the adapted blocks "
                f"{self.blocks}."
            )
        return self
