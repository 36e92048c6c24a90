"""IQE-CLIP: every choice in which paper (arXiv 2506.10730) and released code differ, and ablations.

Defaults are the released code; "spec" is the comparison of paper and code in its section 10.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from scanomaly.config.base import Frozen
from scanomaly.config.clip import ClipMethodConfig

Condition = Literal["convolution", "mlp", "none"]
"""How an image's class feature becomes tokens: the code's convolution, the paper's MLP (its sizes
are our reading), or not at all (learned tokens alone)."""


class PromptConfig(Frozen):
    """Prompt tuning of the text side (spec sections 4.2 and 4.4)."""

    class_tokens: int = Field(default=2, ge=0)
    """r tokens made from the image, in the place of the end token. 0: the sentence stays as it is
    (ablation: no class tokens)."""
    condition: Condition = "convolution"
    """none: the code's use_global=False, which its README's command sets."""
    learned: int = Field(default=1, ge=0)
    """M learned tokens in each text layer. Code 1, paper 4; 0: none (ablation: no learnable tokens;
    with class_tokens=0, no prompt tuning)."""


class QueryConfig(Frozen):
    """The instance-aware query module (IQM; spec sections 4.3 and 4.5)."""

    condition: Condition = "convolution"
    """How the class queries start. none: ablation without class initialisation."""
    order: Literal["code", "paper"] = "code"
    """code: self, image, text, one feed-forward. paper: self, text, image, one after each."""
    image: bool = True
    text: bool = True
    """What queries attend to (ablations: no image in IQM, no text in IQM)."""
    depth: int = Field(default=4, gt=0)
    heads: int = Field(default=8, gt=0)
    hidden: int = Field(default=3072, gt=0)
    """Of the feed-forwards."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """The code says 0.1, but trains in eval mode, from the start in zero-shot and after the first
    epoch in few-shot (spec section 7)."""


class BranchWeights(Frozen):
    """Shares of the two comparisons: patches with text features, patches with query embeddings."""

    text: float = Field(ge=0)
    query: float = Field(ge=0)


class LossConfig(Frozen):
    """What is summed over levels and branches (spec section 6)."""

    weights: BranchWeights = BranchWeights(text=1.0, query=1.0)
    """Code: 1 and 1. Paper Eq. 14, alpha 0.8: text 0.8 and query 0.2."""
    pooled: Literal["patch_mean", "map_max"] = "patch_mean"
    """The image's score in training. patch_mean: code. map_max: paper, the maximum of the map."""
    classification: Literal["logits", "plain"] = "logits"
    """Binary cross-entropy of that score: as a logit (code), or as the probability (paper)."""


class ScoreConfig(Frozen):
    """From the two branches' maps to a pixel map and an image score."""

    weights: BranchWeights = BranchWeights(text=0.2, query=0.8)
    """Of the two maps, in code and paper (Eq. 12, alpha 0.8)."""
    sigma: float = Field(default=8.0, ge=0)
    """Gaussian filter of the map, in pixels. Paper: none, 0."""
    image: Literal["patch_mean", "map_mean", "map_max"] = "patch_mean"
    """patch_mean: code, zero-shot: mean probability of patches, summed over levels and branches.
    map_mean: code, few-shot: means of the two maps, added. map_max: paper, highest of the map."""


class IqeClipConfig(ClipMethodConfig):
    """IQE-CLIP as released."""

    sentences: tuple[str, str] = (
        "a photo of a normal <|class|>.",
        "a photo of a abnormal <|class|>.",
    )
    """Normal and abnormal, word by word as in the code, where `<|class|>` is plain text."""
    prompts: PromptConfig = PromptConfig()
    queries: QueryConfig | None = QueryConfig()
    """None: text features alone (ablation: no IQM)."""
    level_activation: Literal["none", "relu"] = "none"
    """After each level's linear map. Paper Eq. 5: relu."""
    temperature: Literal["learned", "none"] = "learned"
    """Of the text branch's cosines; learned from 1 / 0.07 in the code, 1 in the paper."""
    temperature_rate: float = Field(default=0.01, gt=0)
    """Learning rate of the temperature alone (spec section 7)."""
    loss: LossConfig = LossConfig()
    score: ScoreConfig = ScoreConfig()

    @model_validator(mode="after")
    def _something_is_trained_for_what_is_scored(self) -> Self:
        branches = ("text",) if self.queries is None else ("text", "query")
        for name, weights in (("loss", self.loss.weights), ("score", self.score.weights)):
            if not any(getattr(weights, branch) for branch in branches):
                raise ValueError(
                    f"{name}.weights of {' and '.join(branches)} are 0; give one of them a share."
                )
        return self
