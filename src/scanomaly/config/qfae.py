"""QFAE: every architectural and scoring choice, with its source (spec = the published paper/code).

Defaults are the published configuration for BraTS2021 with DINOv2 ViT-L/14 reg4 and MAE ViT-L.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.base import Frozen, MethodConfig

QFAE_MEAN = (0.449, 0.449, 0.449)
QFAE_STD = (0.226, 0.226, 0.226)

DINOV2 = "vit_large_patch14_reg4_dinov2.lvd142m"
MAE = "vit_large_patch16_224.mae"


def qfae_backbone(name: str) -> BackboneConfig:
    """A ViT at 224 px with the one mean and std that QFAE uses for every network."""
    return BackboneConfig(name=name, side=224, mean=QFAE_MEAN, std=QFAE_STD)


DistanceName = Literal["cosine", "l1", "l2", "l2_total", "cosine_total"]
Criterion = Literal[
    "perceptual", "mae", "mse", "ssim", "ms_ssim", "colour_cosine", "local_residual"
]
ScoreMode = Literal[
    "mean.mean",
    "mean.max",
    "max.mean",
    "max.max",
    "pixelwise_mean_max",
    "pixelwise_max_mean",
    "downsample_8x8",
]
"""`<over pixels>.<over maps>`, or a named rule of its own."""


class EncoderConfig(Frozen):
    """A frozen network and the blocks whose tokens become context, with one linear projection."""

    backbone: BackboneConfig
    blocks: tuple[int, ...] = (-2, -4)
    """Tapped blocks, before the final norm, prefix tokens kept (paper: 20 and 22)."""
    merge: Literal["tokens", "channels"] = "tokens"
    """How tapped blocks come together: along the token axis as published, or, for the stages of a
    CNN, along channels on the coarsest stage's grid (finer stages are folded, nothing is lost)."""
    standardise: bool = False
    """Bring each channel to mean 0 and deviation 1 over training images before the projection:
    convolutional stages differ in scale by orders of magnitude, transformer blocks do not."""
    positions: bool = False
    """Add a fixed sin-cos table to the projected patches: convolutional features carry none."""


class JunctionConfig(Frozen):
    """The Q-Former block (paper section 3.1)."""

    queries: int = Field(default=784, gt=0)
    width: int = Field(default=768, gt=0)
    heads: int = Field(default=8, gt=0)
    cross_head_width: int = Field(default=64, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    dropout: float = Field(default=0.01, ge=0, lt=1)
    causal: bool = True
    """Queries attend to earlier queries only: published code, not in the paper."""
    residual: bool = False
    """Residual connections round the three sub-steps; published: none. Converges faster."""
    local_start: bool = False
    """Each query starts from the context token at its own place (needs as many tokens as queries);
    published: queries know nothing of the image before cross-attention. Converges much faster."""


class DecoderConfig(Frozen):
    """The image decoder (paper section 3.1)."""

    width: int = Field(default=768, gt=0)
    depth: int = Field(default=6, gt=0)
    heads: int = Field(default=12, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    patch: int = Field(default=8, gt=0)
    channels: Literal[1, 3] = 3
    """1: a grey image, repeated three times."""
    norm_eps: float = 1e-5
    """1e-5 as in the published weights (timm 1.0.14); newer timm defaults to 1e-6."""


class PerceptualConfig(Frozen):
    """The frozen network in whose features input and reconstruction are compared."""

    backbone: BackboneConfig
    distance: DistanceName = "cosine"


class ViewsConfig(Frozen):
    """Which blocks at which views: a view is a patch size (ViT) or an input side (CNN)."""

    blocks: tuple[int, ...]
    patches: tuple[int, ...] = ()
    sides: tuple[int, ...] = ()
    multiply: Literal["none", "views", "views_and_blocks"] = "views"
    """Which maps are multiplied: the views of a block (supplement 6.2), all of them, or none
    (supplement 6.3 counts every block and patch size on its own)."""

    @model_validator(mode="after")
    def _one_kind_of_view(self) -> Self:
        if bool(self.patches) == bool(self.sides):
            raise ValueError(
                "expected either patches (a ViT seen at several patch sizes) or sides (a CNN seen "
                f"at several image sides), got patches={self.patches} and sides={self.sides}."
            )
        return self


class CorruptionConfig(Frozen):
    """Smooth noise on the encoder's input in training, to be removed by the reconstruction.

    Teaches to draw healthy tissue over local changes, from normal images only (Kascenas et al.,
    MIDL 2022). Published QFAE: none.
    """

    strength: float = Field(default=0.0, ge=0)
    """Largest standard deviation, in intensities 0..1; each image draws its own below it."""
    cells: tuple[int, ...] = (4, 8, 16, 32)
    """Sizes in pixels of the noise's grain; each image draws one."""


class LossTerm(Frozen):
    """One weighted criterion; all criteria's values are averaged together."""

    kind: Criterion
    weight: float = 1.0


class ScoreConfig(Frozen):
    """From difference maps to an image score and a pixel map."""

    sources: tuple[Criterion, ...] = Field(default=("perceptual",), min_length=1)
    """Several are joined by the geometric mean of their maps; published: one."""
    smooth: Literal[1, 3, 5, 7, 9] = 1
    """Side in pixels of a mean filter over the maps; 1: none, as published."""
    image: ScoreMode = "max.mean"
    pixel: Literal["mean", "max", "pooled"] = "mean"
    """Over maps; paper's text: mean, its formula: max."""
    mirror: bool = False
    """Also look at the image's left-right mirror, and take the mean of both scores and maps."""
    relative: bool = False
    """Divide score and map by what training images of such a contrast score: 1 = as healthy."""


class ReconstructionConfig(MethodConfig):
    """What QFAE and the plain autoencoder share."""

    side: int = Field(default=224, gt=0)
    encoders: tuple[EncoderConfig, ...] = Field(
        default=(EncoderConfig(backbone=qfae_backbone(DINOV2)),), min_length=1
    )
    decoder: DecoderConfig = DecoderConfig()
    perceptual: PerceptualConfig = PerceptualConfig(backbone=qfae_backbone(MAE))
    corruption: CorruptionConfig = CorruptionConfig()
    loss: tuple[LossTerm, ...] = Field(default=(LossTerm(kind="perceptual"),), min_length=1)
    loss_views: ViewsConfig = ViewsConfig(blocks=(15, 19), patches=(32, 56))
    """Paper: 16th and 20th block, patch sizes 32 and 56."""
    score_views: ViewsConfig = ViewsConfig(blocks=(11, 15, 19), patches=(16, 32, 56))
    score: ScoreConfig = ScoreConfig()
    mean: tuple[float, float, float] = QFAE_MEAN
    std: tuple[float, float, float] = QFAE_STD
    """The decoder's output space: (image - mean) / std."""

    @property
    def grid(self) -> int:
        return self.side // self.decoder.patch

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        if self.side % self.decoder.patch:
            raise ValueError(
                f"side {self.side} is not a multiple of decoder.patch {self.decoder.patch}; "
                f"use side {self.grid * self.decoder.patch} or another patch."
            )
        return self


class QFAEConfig(ReconstructionConfig):
    """QFAE as published (defaults: BraTS2021)."""

    junction: JunctionConfig = JunctionConfig()

    @model_validator(mode="after")
    def _queries_fill_the_image(self) -> Self:
        if self.junction.queries != self.grid**2:
            raise ValueError(
                f"junction.queries {self.junction.queries} does not fill the image: side "
                f"{self.side} with decoder.patch {self.decoder.patch} needs {self.grid**2}."
            )
        return self


class AutoencoderConfig(ReconstructionConfig):
    """The plain autoencoder of QFAE's Table 1: encoder patches go straight to the decoder."""

    encoders: tuple[EncoderConfig, ...] = Field(
        default=(EncoderConfig(backbone=qfae_backbone(DINOV2), blocks=(-2,)),),
        min_length=1,
        max_length=1,
    )
    decoder: DecoderConfig = DecoderConfig(patch=14)
    loss: tuple[LossTerm, ...] = Field(default=(LossTerm(kind="mae"),), min_length=1)
    score: ScoreConfig = ScoreConfig(sources=("mae",))
