"""anomalib's Lightning modules on our features: what each is built from, and what it is asked.

anomalib's models make their feature extractors themselves and would download weights for them;
while one is built, those names in its file are ours.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from scanomaly.backbones.clip import build_clip
from scanomaly.config.anomalib_models import AnomalibConfig
from scanomaly.config.backbones import ClipConfig
from scanomaly.errors import ConfigError
from scanomaly.methods.outside.features import FrozenFeatures, TowersForWindows, extractors
from scanomaly.methods.outside.flow_maps import FlowMaps

IMAGES = "anomalib.models.image"
LEAST_NOISE = 32
"""Positions a side of anomalib's Perlin noise at its finest."""


def require_anomalib() -> None:
    """Raises ConfigError where anomalib is not installed."""
    try:
        with warnings.catch_warnings():
            # anomalib 2.7 imports its own deprecated parts
            warnings.simplefilter("ignore", FutureWarning)
            import_module(IMAGES)
    except ImportError as error:
        raise ConfigError(
            f"the method anomalib needs the library anomalib ({error}): "
            "`pip install 'scanomaly[bench]'`."
        ) from error
    logging.getLogger("anomalib").setLevel(logging.WARNING)


@contextmanager
def swapped(module: ModuleType, names: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, these names of a module mean something else."""
    before = {name: getattr(module, name) for name in names}
    try:
        for name, value in names.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a module of anomalib is made: its package, its class, its arguments.

    swaps: names in its torch model's file, and what they mean meanwhile.
    """

    package: str
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    swaps: Mapping[str, Any] = field(default_factory=dict)


def make(plan: Plan, side: int) -> Any:
    """The Lightning module, without anomalib's own transforms, metrics and normalised scores."""
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Resize

    torch_model = import_module(f"{IMAGES}.{plan.package}.torch_model")
    kind = getattr(import_module(f"{IMAGES}.{plan.package}"), plan.kind)
    with swapped(torch_model, plan.swaps):
        module = kind(
            **plan.arguments,
            pre_processor=PreProcessor(transform=Resize((side, side))),  # some read the side there
            post_processor=False,
            evaluator=False,
            visualizer=False,
        )
    module.pre_processor = None
    module.log = module.log_dict = _unlogged
    return module


def _unlogged(
    name: object,
    value: object = None,
    on_step: object = None,
    on_epoch: object = None,
    prog_bar: object = None,
    logger: object = None,
) -> None:
    """In place of a module's log: our loop writes the loss down."""


def _architecture(config: AnomalibConfig) -> str:
    """timm's name without the tag of the weights, as anomalib's tables have it."""
    return config.features.name.partition(".")[0]


def _layers(config: AnomalibConfig) -> list[str]:
    return [f"block{block}" for block in config.blocks]


def _features(config: AnomalibConfig) -> dict[str, Any]:
    """Arguments of a model on features of timm, which are then swapped for ours."""
    return {"backbone": _architecture(config), "layers": _layers(config), "pre_trained": False}


def _swaps(config: AnomalibConfig) -> dict[str, Any]:
    return {"TimmFeatureExtractor": extractors(config.features, config.blocks)}


def _patchcore(config: AnomalibConfig) -> Any:
    model: Any = config.model
    arguments = {
        **_features(config),
        "coreset_sampling_ratio": model.coreset_ratio,
        "num_neighbors": model.neighbours,
    }
    return make(Plan("patchcore", "Patchcore", arguments, _swaps(config)), config.side)


def _padim(config: AnomalibConfig) -> Any:
    model: Any = config.model
    arguments = {
        **_features(config),
        "n_features": model.features,
    }
    return make(Plan("padim", "Padim", arguments, _swaps(config)), config.side)


def _reverse_distillation(config: AnomalibConfig) -> Any:
    from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode

    model: Any = config.model
    arguments = {
        **_features(config),
        "anomaly_map_mode": AnomalyMapGenerationMode(model.maps),
    }
    plan = Plan("reverse_distillation", "ReverseDistillation", arguments, _swaps(config))
    return make(plan, config.side)


def _stfpm(config: AnomalibConfig) -> Any:
    arguments = {"backbone": _architecture(config), "layers": _layers(config)}
    return make(Plan("stfpm", "Stfpm", arguments, _swaps(config)), config.side)


def _cfa(config: AnomalibConfig) -> Any:
    from anomalib.models.image.cfa.torch_model import CoordConv2d

    model: Any = config.model
    make_features = extractors(config.features, config.blocks)
    arguments = {
        "backbone": "resnet18",  # whose layer names it then uses; its widths are replaced below
        "gamma_c": model.centre_share,
        "gamma_d": model.width_share,
        "num_nearest_neighbors": model.neighbours,
        "num_hard_negative_features": model.hard_negatives,
        "radius": model.radius,
    }
    plan = Plan("cfa", "Cfa", arguments, {"get_feature_extractor": make_features})
    module = make(plan, config.side)
    features: FrozenFeatures = module.model.feature_extractor
    width = sum(features.out_dims)
    module.model.descriptor.layer = CoordConv2d(width, width // model.width_share, 1)
    module.loss.radius = module.loss.radius.detach()  # else its graph must outlive every step
    return module


def _cflow(config: AnomalibConfig) -> Any:
    model: Any = config.model
    arguments = {
        **_features(config),
        "fiber_batch_size": model.fibers,
        "condition_vector": model.condition,
        "coupling_blocks": model.blocks,
        "clamp_alpha": model.clamp,
    }
    module = make(Plan("cflow", "Cflow", arguments, _swaps(config)), config.side)
    module.model.anomaly_map_generator = FlowMaps(len(config.blocks))
    return module


def _csflow(config: AnomalibConfig) -> Any:
    from FrEIA.framework import InputNode

    model: Any = config.model
    swaps = _swaps(config)
    width = swaps["TimmFeatureExtractor"](None, [""]).out_dims[0]

    def input_node(_: int, height: int, columns: int, name: str) -> Any:
        return InputNode(width, height, columns, name=name)  # anomalib: always EfficientNet-B5's

    swaps |= {"efficientnet_b5": lambda weights: None, "InputNode": input_node}
    arguments = {
        "cross_conv_hidden_channels": model.hidden,
        "n_coupling_blocks": model.blocks,
        "clamp": model.clamp,
    }
    return make(Plan("csflow", "Csflow", arguments, swaps), config.side)


def _draem(config: AnomalibConfig) -> Any:
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
    from anomalib.models.image.draem.torch_model import (
        DiscriminativeSubNetwork,
        ReconstructiveSubNetwork,
    )

    model: Any = config.model
    networks = {
        "ReconstructiveSubNetwork": partial(ReconstructiveSubNetwork, base_width=model.width),
        "DiscriminativeSubNetwork": partial(DiscriminativeSubNetwork, base_width=model.width // 2),
    }
    with tempfile.TemporaryDirectory() as empty:  # given no folder, it downloads one
        module = make(Plan("draem", "Draem", {"dtd_dir": empty}, networks), config.side)
    module.augmenter = PerlinAnomalyGenerator(model.textures, blend_factor=model.blend)
    if model.textures is not None and not module.augmenter.anomaly_source_paths:
        raise ConfigError(
            f"config.model.textures={model.textures}: expected a folder of images to paste, "
            "found none; give DTD's `images`, or null for procedural textures."
        )
    return module


def _ganomaly(config: AnomalibConfig) -> Any:
    model: Any = config.model
    arguments = {
        "n_features": model.features,
        "latent_vec_size": model.latent,
        "extra_layers": model.extra_layers,
        "wadv": model.adversarial_weight,
        "wcon": model.image_weight,
        "wenc": model.code_weight,
    }
    return make(Plan("ganomaly", "Ganomaly", arguments), config.side)


def _supersimplenet(config: AnomalibConfig) -> Any:
    model: Any = config.model
    arguments = {
        "perlin_threshold": model.threshold,
        "backbone": _architecture(config),
        "layers": _layers(config),
    }
    module = make(Plan("supersimplenet", "Supersimplenet", arguments, _swaps(config)), config.side)
    features = module.model.feature_extractor(torch.zeros(1, 3, config.side, config.side))
    if min(features.shape[2:]) < LEAST_NOISE:
        raise ConfigError(
            f"supersimplenet's noise needs maps of at least {LEAST_NOISE} positions a side, which "
            f"are twice the first block's, got {features.shape[2]}; use a larger config.side or an "
            "earlier block."
        )
    return module


def _winclip(config: AnomalibConfig) -> Any:
    model: Any = config.model
    backbone = config.features
    assert isinstance(backbone, ClipConfig)  # as validated
    if model.object is None:
        raise ConfigError(
            "config.model.object is what the images show, in words, and is not set; set it, such "
            "as --set 'config.model.object=chest X-ray', or take config.for_dataset(NAME)."
        )
    towers = TowersForWindows(build_clip(backbone), config.side)
    library = SimpleNamespace(
        create_model_and_transforms=lambda _, pretrained: (towers, None, None)
    )
    arguments = {"class_name": model.object, "scales": model.scales}
    module = make(Plan("winclip", "WinClip", arguments, {"open_clip": library}), config.side)
    module.model.k_shot = int(model.few_shot)  # what a loaded one must know; `setup` counts
    return module


def _dinomaly(config: AnomalibConfig) -> Any:
    model: Any = config.model
    swaps = _swaps(config)
    frozen = swaps["TimmFeatureExtractor"](None, _layers(config), output_fmt="NLC").backbone
    count, name = len(config.blocks), config.features.name
    halves = [list(range(count // 2)), list(range(count // 2, count))]
    sizes = {"embed_dim": frozen.width(0), "num_heads": _heads(frozen), "target_layers": []}
    swaps["DINO_ARCHITECTURES"] = {name: sizes}
    arguments = {
        "encoder_name": name,
        "bottleneck_dropout": model.dropout,
        "decoder_depth": count,
        "target_layers": list(config.blocks),
    }
    module = make(Plan("dinomaly", "Dinomaly", arguments, swaps), config.side)
    # as arguments they would be lost: anomalib 2.7 keeps its own halves alone
    module.model.fuse_layer_encoder = module.model.fuse_layer_decoder = halves
    return module


def _heads(transformer: nn.Module) -> int:
    blocks: Iterator[Any] = transformer.modules()
    return next(int(block.num_heads) for block in blocks if hasattr(block, "num_heads"))


def _anomaly_dino(config: AnomalibConfig) -> Any:
    model: Any = config.model
    arguments = {
        "encoder_name": "dino_small",  # only looked at, for the name of a block
        "num_neighbours": model.neighbours,
    }
    return make(Plan("anomaly_dino", "AnomalyDINO", arguments, _swaps(config)), config.side)


WINDOWED_AT_ONCE = 4
"""Images of which each is cut into hundreds of windows, so that these fit a cache, and memory."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One of anomalib's models: how it is built, and how it is taught and asked.

    fitted: the buffer that is empty until it is. memory: beginnings of the buffers that hold rows
    of training images. loss: of what training_step returns. normalised: whether its own networks
    take images less ImageNet's mean. by_step: whether its schedule counts steps instead of epochs.
    at_once: how many images it is asked about together; None: a batch.
    """

    build: Callable[[AnomalibConfig], Any]
    fitted: str | None = None
    memory: tuple[str, ...] = ()
    loss: str = "loss"
    normalised: bool = False
    by_step: bool = False
    at_once: int | None = None


RECIPES: Mapping[str, Recipe] = {
    "patchcore": Recipe(_patchcore, "memory_bank", ("memory_bank",)),
    "padim": Recipe(_padim, "gaussian.mean"),
    "reverse_distillation": Recipe(_reverse_distillation),
    "stfpm": Recipe(_stfpm),
    "cfa": Recipe(_cfa, "memory_bank"),
    "cflow": Recipe(_cflow),
    "csflow": Recipe(_csflow),
    "draem": Recipe(_draem),
    "ganomaly": Recipe(_ganomaly, loss="generator_loss", normalised=True),
    "supersimplenet": Recipe(_supersimplenet),
    "winclip": Recipe(
        _winclip,
        "_text_embeddings",
        ("_patch_embeddings", "__visual_embeddings"),
        at_once=WINDOWED_AT_ONCE,
    ),
    "dinomaly": Recipe(_dinomaly, by_step=True),
    "anomaly_dino": Recipe(_anomaly_dino, "memory_bank", ("memory_bank",)),
}
"""`model.name` of the configuration -> anomalib's model."""


def build_module(config: AnomalibConfig) -> Any:
    """Raises ConfigError for what cannot be built, WeightsError for missing weights."""
    require_anomalib()
    try:
        return RECIPES[config.model.name].build(config)
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"anomalib cannot build {config.model.name} on "
            f"{'its own networks' if config.backbone is None else config.backbone.name} with "
            f"blocks {config.blocks} at {config.side} px: {error}"
        ) from error
