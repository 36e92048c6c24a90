"""anomalib's models on our images and features: which one, on which backbone, with which options.

Defaults are those of anomalib 2.7, unless a line says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from scanomaly.config.backbones import BackboneConfig, ClipConfig
from scanomaly.config.base import Frozen, MethodConfig
from scanomaly.config.data import InputSpec
from scanomaly.config.mvfa import words_for


class Patchcore(Frozen):
    """A coreset of locally averaged features; distance to the nearest (Roth et al., CVPR 2022)."""

    name: Literal["patchcore"] = "patchcore"
    coreset_ratio: float = Field(default=0.1, gt=0, le=1)
    """Share of all patches that the memory keeps; 1 keeps all of them."""
    neighbours: int = Field(default=9, gt=0)
    """That weigh the image score; 1: the largest distance itself."""


class Padim(Frozen):
    """A Gaussian at every position (Defard et al., ICPR 2020)."""

    name: Literal["padim"] = "padim"
    features: int = Field(default=100, gt=0)
    """Channels drawn at random. anomalib: 100 for ResNet-18, 550 for Wide ResNet-50-2."""


class ReverseDistillation(Frozen):
    """A decoder that gives a frozen ResNet's features back (Deng and Li, CVPR 2022)."""

    name: Literal["reverse_distillation"] = "reverse_distillation"
    maps: Literal["add", "multiply"] = "add"
    """How the maps of the stages become one."""


class Stfpm(Frozen):
    """A student of a frozen CNN, stage by stage (Wang et al., BMVC 2021)."""

    name: Literal["stfpm"] = "stfpm"


class Cfa(Frozen):
    """A descriptor drawn towards the centres of normal features (Lee et al., IEEE Access 2022)."""

    name: Literal["cfa"] = "cfa"
    centre_share: int = Field(default=1, gt=0)
    """gamma_c: positions per centre."""
    width_share: int = Field(default=1, gt=0)
    """gamma_d: channels of the features per channel of the descriptor."""
    neighbours: int = Field(default=3, gt=0)
    hard_negatives: int = Field(default=3, gt=0)
    radius: float = Field(default=1e-5, gt=0)


class Cflow(Frozen):
    """A flow at every stage, conditioned on the position (Gudovskiy et al., WACV 2022)."""

    name: Literal["cflow"] = "cflow"
    fibers: int = Field(default=64, gt=0)
    """Positions in one step of the optimiser."""
    condition: int = Field(default=128, gt=0, multiple_of=4)
    """Width of a position's code."""
    blocks: int = Field(default=8, gt=0)
    """Coupling blocks of each flow."""
    clamp: float = Field(default=1.9, gt=0)


class Csflow(Frozen):
    """One flow over three image scales (Rudolph et al., WACV 2022)."""

    name: Literal["csflow"] = "csflow"
    hidden: int = Field(default=1024, gt=0)
    blocks: int = Field(default=4, gt=0)
    clamp: int = Field(default=3, gt=0)


class Draem(Frozen):
    """Two U-Nets that remove pasted textures and find them (Zavrtanik et al., ICCV 2021)."""

    name: Literal["draem"] = "draem"
    textures: str | None = None
    """A folder of images to paste, such as DTD, which the paper uses. None: anomalib's procedural
    source, the noise that also shapes the mask."""
    width: int = Field(default=128, ge=2)
    """Channels of the first convolutions that reconstruct; those that find have half as many."""
    blend: tuple[float, float] = (0.1, 1.0)


class Ganomaly(Frozen):
    """Distance of two codes around a generator (Akcay et al., ACCV 2018). Draws no map."""

    name: Literal["ganomaly"] = "ganomaly"
    features: int = Field(default=64, gt=0)
    latent: int = Field(default=100, gt=0)
    extra_layers: int = Field(default=0, ge=0)
    adversarial_weight: int = Field(default=1, ge=0)
    image_weight: int = Field(default=50, ge=0)
    code_weight: int = Field(default=1, ge=0)


class Supersimplenet(Frozen):
    """Noise on features, found by two small heads (Rolih et al., ICPR 2024). Without labels."""

    name: Literal["supersimplenet"] = "supersimplenet"
    threshold: float = Field(default=0.2, ge=-1, le=1)
    """Of the Perlin noise that says where features are disturbed."""


class Winclip(Frozen):
    """A frozen CLIP asked with prompts, window by window (Jeong et al., CVPR 2023)."""

    name: Literal["winclip"] = "winclip"
    object: str | None = Field(default=None, min_length=1)
    """What the images show, in the words of the prompts. None: filled from the data set's name."""
    few_shot: bool = False
    """Whether windows are also compared with those of the training images."""
    scales: tuple[int, ...] = Field(default=(2, 3), min_length=1)
    """Sides of the windows, in patches."""


class Dinomaly(Frozen):
    """A loose reconstruction of DINOv2's tokens (Guo et al., CVPR 2025).

    As its authors do, and unlike anomalib 2.7, which counts epochs, the schedule counts steps.
    """

    name: Literal["dinomaly"] = "dinomaly"
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Of the bottleneck."""


class AnomalyDino(Frozen):
    """Cosine to the nearest DINOv2 token of normal images (Damm et al., WACV 2025)."""

    name: Literal["anomaly_dino"] = "anomaly_dino"
    coreset_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of all patches that the memory keeps; 1 keeps all of them."""
    neighbours: int = Field(default=1, gt=0)


Model = Annotated[
    Patchcore
    | Padim
    | ReverseDistillation
    | Stfpm
    | Cfa
    | Cflow
    | Csflow
    | Draem
    | Ganomaly
    | Supersimplenet
    | Winclip
    | Dinomaly
    | AnomalyDino,
    Field(discriminator="name"),
]

ANY_NUMBER = 0
BLOCKS: Mapping[str, int | None] = {
    "patchcore": ANY_NUMBER,
    "padim": ANY_NUMBER,
    "reverse_distillation": 3,
    "stfpm": ANY_NUMBER,
    "cfa": 3,
    "cflow": ANY_NUMBER,
    "csflow": 1,
    "draem": None,
    "ganomaly": None,
    "supersimplenet": ANY_NUMBER,
    "winclip": ANY_NUMBER,
    "dinomaly": ANY_NUMBER,
    "anomaly_dino": 1,
}
"""Model -> how many blocks of the backbone it reads; None: it has no backbone."""


class AnomalibConfig(MethodConfig):
    """One of anomalib's models; `model.name` says which."""

    model: Model
    side: int = Field(default=256, gt=0)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    library: Literal["torchvision", "pillow"] = "torchvision"
    backbone: ClipConfig | BackboneConfig | None = Field(default=None, union_mode="left_to_right")
    """The frozen network that the model reads; None for DRAEM and GANomaly, which have none."""
    blocks: tuple[int, ...] = ()
    """Its stages or blocks that are read, counted from 0. WinCLIP reads what it wants."""

    @property
    def learns(self) -> bool:
        return not isinstance(self.model, Winclip) or self.model.few_shot

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(side=self.side, interpolation=self.interpolation, library=self.library)

    @property
    def features(self) -> BackboneConfig:
        """The backbone at the side of the images."""
        assert self.backbone is not None  # as validated
        if self.backbone.side is not None:
            return self.backbone
        return self.backbone.model_copy(update={"side": self.side})

    def for_dataset(self, name: str) -> Self:
        """With the words of that data set, where the model takes words; one's own stay."""
        model = self.model
        if not isinstance(model, Winclip):
            return self
        named = model.model_copy(update={"object": words_for(name, model.object)})
        return self.model_copy(update={"model": named})

    @model_validator(mode="after")
    def _backbone_fits_the_model(self) -> Self:
        name, wanted = self.model.name, BLOCKS[self.model.name]
        if wanted is None and (self.backbone is not None or self.blocks):
            raise ValueError(f"{name} has networks of its own; leave backbone and blocks out.")
        if wanted is not None and self.backbone is None:
            raise ValueError(
                f"{name} reads a frozen network; give backbone.name, such as "
                "tf_efficientnet_lite0.in1k."
            )
        if isinstance(self.model, Winclip) and not isinstance(self.backbone, ClipConfig):
            raise ValueError(
                "winclip asks a CLIP; give backbone.name as ARCHITECTURE/TAG, such as "
                "tiny-clip/phantom."
            )
        return self

    @model_validator(mode="after")
    def _blocks_fit_the_model(self) -> Self:
        name, wanted = self.model.name, BLOCKS[self.model.name]
        if wanted is None or name == "winclip":
            return self
        if not self.blocks or wanted not in (ANY_NUMBER, len(self.blocks)):
            number = "at least one block" if wanted == ANY_NUMBER else f"{wanted} blocks"
            raise ValueError(f"{name} reads {number} of its backbone, got blocks={self.blocks}.")
        if name == "dinomaly" and len(self.blocks) % 2:
            raise ValueError(
                f"dinomaly compares two halves of an even number of blocks, got {self.blocks}."
            )
        return self
