"""A frozen CLIP that is only asked, with MVFA's prompt ensemble: what no training gives.

B images, L patches, E width of text features
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor

from scanomaly.backbones.clip import Clip, build_clip
from scanomaly.config.data import InputSpec
from scanomaly.config.fit import FitOptions
from scanomaly.config.prompted_clip import PromptedClipConfig
from scanomaly.methods.base import Detector
from scanomaly.methods.prompts import ensemble, require_object
from scanomaly.nn.patch_losses import level_map, text_logits
from scanomaly.records import Batch, Prediction
from scanomaly.training import Criterion, History, TrainingData, training_device

NOT_TRAINED = "nothing was trained"


@final
class PromptedClip(Detector):
    """Image and patches against normal and abnormal prompts.

    Score: probability that the image's feature is that of an abnormal prompt. Map: the same of the
    last block's patch tokens, projected like the class token.
    """

    learns_from_normals = True
    text_features: Tensor

    def __init__(self, config: PromptedClipConfig, clip: Clip) -> None:
        super().__init__()
        self.config = config
        self.vision, self.text = clip
        self.register_buffer("text_features", torch.zeros(clip.text.embed_dim, 2))

    @classmethod
    def left_out(cls, config: Any) -> str | None:
        return "of which nothing was learned"

    @classmethod
    def build(cls, config: Any) -> Self:
        """Raises WeightsError when weights are not here, ConfigError without words."""
        require_object(config.object)
        return cls(config, build_clip(config.backbone))

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(side=self.config.side, interpolation="bicubic", library="pillow")

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
        """Encodes the prompts; no image is looked at."""
        self.to(training_device(options)).use_precision("fp32")
        self.text_features.copy_(ensemble(self.text, require_object(self.config.object)))
        self.use_precision(options.precision)
        return History((), (), 0, NOT_TRAINED)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        self.eval()
        with self.autocast():
            features = self.vision.extract(batch.image.to(self.device), (-1,))
        assert features.pooled is not None  # the last block was run
        network = self.vision.network
        patches = network.ln_post(features.patches[0]) @ network.proj
        score = self._logits(features.pooled[:, None])[:, 0].softmax(dim=-1)[:, 1]
        maps = level_map(self._logits(patches), features.grids[0], self.config.side)
        return Prediction(score, maps[:, 1:])

    def _logits(self, tokens: Tensor) -> Tensor:
        """(B, L, E) -> (B, L, 2)."""
        return text_logits(tokens, self.text_features, self.config.scale)
