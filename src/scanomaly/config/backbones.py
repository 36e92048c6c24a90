"""Which frozen network to build, at which size, and where its weights are."""

from pydantic import Field

from scanomaly.config.base import Frozen

RANDOM_WEIGHTS = "random"


class BackboneConfig(Frozen):
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
