"""Which frozen network to build, at which size, and where its weights are."""

from pydantic import Field

from scanomaly.config.base import Frozen

RANDOM_WEIGHTS = "random"


class PretrainedConfig(Frozen):
    """A network by the name of its weights."""

    name: str = Field(min_length=1)
    weights: str | None = None
    """None: looked up by name (`scanomaly weights list` tells where). A path: a weight file or a
    folder. "random": seeded random values."""

    @property
    def is_random(self) -> bool:
        return self.weights == RANDOM_WEIGHTS


class BackboneConfig(PretrainedConfig):
    """The least that describes a backbone.

    Everything left None is what the weights were trained with, as timm records it.
    """

    name: str = Field(min_length=1)
    """timm's name: architecture, dot, tag of the weights (`vit_large_patch16_224.mae`)."""
    side: int | None = Field(default=None, gt=0)
    """ViT: side of the images in pixels, for which positions are resampled once; None = the side
    of pretraining. A CNN takes images of any side and ignores it."""
    patch: int | None = Field(default=None, gt=0)
    """ViT: another patch size in pixels than the pretrained one, by resampling its kernel."""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    weights: str | None = None
    """None: looked up by name (`scanomaly weights list` tells where). A path: a weight file, or a
    folder with one and, if its sizes are not the architecture's own, timm's config.json.
    "random": seeded random values, for tests and benchmarks."""


class ClipConfig(BackboneConfig):
    """Both towers of a CLIP, from one weight file.

    As in BackboneConfig, what is left None is the weights' own. Images of any side are taken:
    `side` only says which one is the network's own.
    """

    name: str = Field(default="ViT-L-14-336/openai", pattern=r"^[\w.-]+/[\w.-]+$")
    """open_clip's architecture, slash, tag of the weights. With a folder of your own any two
    words: its open_clip_config.json tells the sizes."""
    patch: None = None
    """CLIP keeps the patches it was trained with."""
    quick_gelu: bool = False
    """OpenAI trained with x * sigmoid(1.702 x); the published MVFA and IQE-CLIP run the same
    weights with the exact GELU (MVFA specification, section 3). Whatever the file beside the
    weights says, this decides; only a name ending in -quickgelu means QuickGELU by itself."""
    weights: str | None = None
    """None: looked up by name. A path: a folder with open_clip_model.safetensors and
    open_clip_config.json, such a file, or any .safetensors file of open_clip's architecture.
    "random": seeded random values, for tests and benchmarks."""
