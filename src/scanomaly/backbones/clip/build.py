"""A CLIP from its weight file: sizes, values, and the checks between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scanomaly.backbones.clip.text import ClipText
from scanomaly.backbones.clip.vision import ClipVision
from scanomaly.backbones.loading import compare_shapes, read_state
from scanomaly.backbones.weights import CLIP_WEIGHT_FILES, described, locate, weight_file
from scanomaly.config.backbones import RANDOM_WEIGHTS, ClipConfig
from scanomaly.errors import ConfigError, WeightsError

DESCRIPTION = "open_clip_config.json"
ARGUMENTS = ("embed_dim", "vision_cfg", "text_cfg")
FOREIGN = ("timm_model_name", "hf_model_name")
"""Settings of towers that other libraries build."""

Sizes = Mapping[str, Any]


class Clip(NamedTuple):
    """The two towers of one CLIP; their features lie in one space of `embed_dim` channels."""

    vision: ClipVision
    text: ClipText


@dataclass(frozen=True)
class Source:
    """Where values, sizes and normalisation come from; file None = seeded random values."""

    name: str
    file: Path | None
    sizes: Sizes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    quick_gelu: bool
    """Whether the name itself means QuickGELU."""


def build_clip(config: ClipConfig) -> Clip:
    """Both towers that `config` describes, on the CPU in fp32; downloads nothing.

    Raises ConfigError for an architecture that is unknown or not two transformers, WeightsError
    if the weights are missing, damaged, in another format or of another architecture.
    """
    source = _source(_file_of(config), config.name)
    network = _filled(source, quick_gelu=config.quick_gelu or source.quick_gelu)
    tower = network.visual
    del network.visual  # the text tower is what is left
    vision = ClipVision(
        tower, config.mean or source.mean, config.std or source.std, side=config.side
    )
    text = ClipText(network)
    vision.config = text.config = config
    return Clip(vision, text)


def clip_sizes(config: ClipConfig) -> dict[str, Any]:
    """What open_clip.CLIP takes for the CLIP that `config` describes. Raises as `build_clip`."""
    sizes = _source(_file_of(config), config.name).sizes
    return {key: sizes[key] for key in ARGUMENTS}


def _file_of(config: ClipConfig) -> Path | None:
    if config.weights == RANDOM_WEIGHTS:
        return None
    return weight_file(locate(config.name, config.weights), config.name)


def check_clip(file: Path, name: str) -> list[str]:
    """Problems of the values in `file`. Raises WeightsError if they are not those of `name`."""
    network = _network(_source(file, name), empty=True)
    state = _fitting_state(network, file, name)
    return [f"{key} holds NaN or infinity" for key, v in state.items() if not v.isfinite().all()]


def _library() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(
            f"CLIP needs open_clip ({error}): `pip install 'scanomaly[clip]'`."
        ) from error
    library: ModuleType = open_clip
    return library


def _source(file: Path | None, name: str) -> Source:
    if file is not None:
        _require_safetensors(file, name)
    library = _library()
    architecture, _, tag = name.partition("/")
    known = library.get_model_config(architecture)
    saved = {} if file is None else _read_description(file)
    sizes = saved.get("model_cfg") or known
    if sizes is None:
        raise ConfigError(
            f"open_clip has no architecture {architecture!r}, and there is no {DESCRIPTION} beside "
            f"the weights of {name} to tell its sizes; choose one of open_clip's, such as "
            "ViT-L-14-336, or give a folder with both files."
        )
    if saved and known is not None:
        _require_same_sizes(library, known, sizes, f"{DESCRIPTION} of {file}, named {name},")
    trained = {**library.get_pretrained_cfg(architecture, tag), **saved.get("preprocess_cfg", {})}
    return Source(
        name,
        file,
        sizes,
        mean=tuple(trained.get("mean") or library.OPENAI_DATASET_MEAN),
        std=tuple(trained.get("std") or library.OPENAI_DATASET_STD),
        quick_gelu=bool((known or {}).get("quick_gelu", False)),
    )


def _require_safetensors(file: Path, name: str) -> None:
    if file.suffix == ".safetensors":
        return
    entry = described(name)
    if entry is None:
        remedy = f"save open_clip's state dict as {CLIP_WEIGHT_FILES[0]} with safetensors"
    else:
        remedy = (
            f"`scanomaly weights fetch {entry.name} --to DIR`, or copy {' and '.join(entry.files)} "
            f"from https://huggingface.co/{entry.repository}"
        )
    raise WeightsError(
        f"expected a .safetensors file in open_clip's format for {name}, got {file} (OpenAI's own "
        f".pt files are TorchScript archives, which hold code and are not opened): {remedy}."
    )


def _read_description(weights: Path) -> dict[str, Any]:
    """open_clip's description beside a weight file; empty if there is none that speaks of it."""
    file = weights.with_name(DESCRIPTION)
    if weights.name not in CLIP_WEIGHT_FILES or not file.is_file():
        return {}
    try:
        saved: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for part in ARGUMENTS:
            saved["model_cfg"][part]
        dict(saved.get("preprocess_cfg") or {})
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(
            f"{file} is not a description of an open_clip model ({error!r}); fetch it again."
        ) from error
    return {**saved, "preprocess_cfg": saved.get("preprocess_cfg") or {}}


def _require_same_sizes(library: ModuleType, known: Sizes, found: Sizes, source: str) -> None:
    expected, got = _flat(library, known), _flat(library, found)
    wrong = [
        f"{key} expected {v}, found {got[key]}" for key, v in expected.items() if v != got[key]
    ]
    if wrong:
        raise WeightsError(
            f"{source} describes another architecture ({'; '.join(wrong[:3])}); "
            "give the name of that one, or another folder."
        )


SHAPES = {
    "vision_cfg": ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
}
"""The settings of an architecture; others, such as patch dropout, only concern training."""


def _flat(library: ModuleType, sizes: Sizes) -> dict[str, Any]:
    """`embed_dim` and each setting in SHAPES, with open_clip's defaults for what is not said."""
    vision = library.CLIPVisionCfg(**sizes["vision_cfg"])
    text = library.CLIPTextCfg(**sizes["text_cfg"])
    parts = {"vision_cfg": asdict(vision), "text_cfg": asdict(text)}
    settings = {f"{part}.{key}": parts[part][key] for part, keys in SHAPES.items() for key in keys}
    return {"embed_dim": sizes["embed_dim"], **settings}


def _network(source: Source, *, quick_gelu: bool = False, empty: bool = False) -> Any:
    """open_clip's CLIP of that architecture; `empty` gives shapes without memory or values."""
    foreign = [key for key in FOREIGN if any(key in source.sizes[part] for part in SHAPES)]
    if foreign or source.sizes.get("custom_text") or source.sizes.get("multimodal_cfg"):
        raise ConfigError(
            f"expected a CLIP of two transformers of open_clip, got {source.name} "
            f"({', '.join(foreign) or 'another kind of text tower'}); choose an architecture such "
            "as ViT-L-14-336."
        )
    arguments = {key: source.sizes[key] for key in ARGUMENTS}
    try:
        with torch.device("meta" if empty else "cpu"):
            return _library().CLIP(**arguments, quick_gelu=quick_gelu)
    except (RuntimeError, TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
        raise ConfigError(f"open_clip cannot build {source.name}: {error}.") from error


def _filled(source: Source, *, quick_gelu: bool) -> Any:
    """The network of `source` with its values, in fp32."""
    if source.file is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a detector on a random CLIP must find it again
            return _network(source, quick_gelu=quick_gelu)
    network = _network(source, quick_gelu=quick_gelu, empty=True)
    network.load_state_dict(_fitting_state(network, source.file, source.name), assign=True)
    if network.attn_mask is not None:  # computed, in no file
        count = network.context_length
        network.attn_mask = torch.full((count, count), float("-inf")).triu_(1)
    return network


def _fitting_state(network: nn.Module, file: Path, name: str) -> dict[str, Tensor]:
    """The values of `file` in fp32. Raises WeightsError where keys or shapes differ."""
    state, wanted = read_state(file), network.state_dict()
    if "logit_scale" in state and state["logit_scale"].numel() == 1:
        state["logit_scale"] = state["logit_scale"].reshape(wanted["logit_scale"].shape)
    differences = compare_shapes(
        {key: tuple(value.shape) for key, value in wanted.items()},
        {key: tuple(value.shape) for key, value in state.items()},
    )
    if differences:
        raise WeightsError(f"{file} does not fit the CLIP {name}: {'; '.join(differences)}.")
    return {key: state[key].to(torch.float32) for key in wanted}
