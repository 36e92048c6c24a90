"""A pretrained CLIP on disk: open_clip's own two files, and a model card."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scanomaly.backbones.weights import licence_of
from scanomaly.files import write_bytes, write_text
from scanomaly.pretraining.recipe import Recipe
from scanomaly.pretraining.retrieval import Retrieval

DESCRIPTION, WEIGHTS, CARD = "open_clip_config.json", "open_clip_model.safetensors", "README.md"


def round_to_half(network: torch.nn.Module) -> None:
    """Give the network, in place, the values that will be saved."""
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})


def save_clip(network: torch.nn.Module, recipe: Recipe, folder: Path) -> None:
    """Write the description and the weights (fp16). Raises DiskError."""
    import safetensors.torch

    state = {name: v.half().cpu().contiguous() for name, v in network.state_dict().items()}
    side = recipe.sizes.vision_cfg.image_size
    preprocess = {"mean": list(recipe.mean), "std": list(recipe.std), "size": [side, side]}
    description: dict[str, Any] = {
        "model_cfg": recipe.sizes.model_dump(),
        "preprocess_cfg": {**preprocess, "mode": "RGB", "interpolation": "bicubic"},
    }
    write_bytes(folder / WEIGHTS, safetensors.torch.save(state, {"format": "pt"}))
    write_text(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")


def save_card(
    recipe: Recipe, found: Retrieval, shown: Sequence[str], *, losses: Sequence[float], folder: Path
) -> None:
    """Write what the weights are, what they learned from, how well, and where they end.

    shown: what each style's images show, in words.
    """
    parts = {
        "Data": _data(recipe, shown),
        "Recipe": _course(recipe, losses),
        "Command": f"`{command(recipe)}`",
        "Held-out retrieval": _accuracy(recipe, found),
        "Use": USE,
        "Limits": LIMITS,
        "Licence": _licence(recipe),
    }
    bullets = (_wrapped(f"- **{name}:** {words}", "  ") for name, words in parts.items())
    lines = [f"# Model card: {recipe.name}", "", _wrapped(_network(recipe)), "", *bullets, ""]
    write_text(folder / CARD, "\n".join(lines))


USE = (
    "A stand-in for CLIP without network, for presets `mvfa-offline-*` and `iqe-offline-*`, demos, "
    "tests and comparisons on simulated images."
)
LIMITS = (
    "It has seen nothing but these simulations (its teacher, if it had one, saw photographs) and "
    "knows no words but those of its captions. Words of anomalies keep random embeddings: prompts "
    "about them mean something only after training on labels. No substitute for a CLIP trained on "
    "real images. Research software, not a medical device."
)


def _wrapped(words: str, indent: str = "") -> str:
    return textwrap.fill(
        words, 110, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def command(recipe: Recipe) -> str:
    """What makes these weights again."""
    fit = recipe.fit
    words = [
        f"scanomaly pretrain {recipe.name.split('/')[0]} --out DIR",
        f"--epochs {fit.epochs} --slices {recipe.slices} --seed {fit.seed}",
        f"--devices {fit.devices}",
    ]
    return " ".join(words)


def _network(recipe: Recipe) -> str:
    vision, text = recipe.sizes.vision_cfg, recipe.sizes.text_cfg
    return (
        f"A small CLIP in open_clip's format (fp16): vision tower of {vision.layers} layers of "
        f"width {vision.width}, patches of {vision.patch_size} at {vision.image_size} px; text "
        f"tower of {text.layers} layers of width {text.width} with CLIP's vocabulary; shared width "
        f"{recipe.sizes.embed_dim}."
    )


def _data(recipe: Recipe, shown: Sequence[str]) -> str:
    count = recipe.slices * len(recipe.styles)
    return (
        f"{count:,} simulated healthy images, {recipe.slices:,} of each style, made by "
        f"`scanomaly.data.phantom.styles`: {', '.join(shown)}. No anomaly, no real patient; these "
        "simulated patients never occur in `scanomaly phantom` at any seed. Captions say modality, "
        "contrast, plane, level and anatomy in changing words, and never mention anomalies."
    )


def _course(recipe: Recipe, losses: Sequence[float]) -> str:
    fit = recipe.fit
    steps = recipe.slices * len(recipe.styles) // fit.batch_size * fit.epochs
    return (
        "contrastive; images of which the same facts are true count as matches; "
        f"{_lessons(recipe)}"
        f"{fit.epochs} epochs, {steps:,} steps of {fit.batch_size} pairs, {fit.precision}, "
        f"OneCycle to {fit.learning_rate:g}, {recipe.patch_dropout:.0%} of patches dropped, small "
        f"shifts, turns, zooms and changes of light. "
        f"Training loss {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last."
    )


def _lessons(recipe: Recipe) -> str:
    own, foreign = recipe.distillation, recipe.foreign
    words = ""
    if own is not None:
        words += (
            f"patch tokens after blocks {_listed(own.blocks)} also learn, weighted {own.weight:g}, "
            f"to tell linearly what stages {_listed(own.stages)} of {own.teacher.name} see in "
            "their place; "
        )
    if foreign is not None:
        words += (
            f"patch tokens after blocks {_listed(foreign.blocks)} also learn, weighted "
            f"{foreign.weight:g}, which places do not belong: up to {foreign.regions} smooth "
            "regions of an image show another image, another place, another light or nothing; "
        )
    return words


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _licence(recipe: Recipe) -> str:
    own = "Apache-2.0, as the package."
    if recipe.distillation is None:
        return own
    teacher = recipe.distillation.teacher.name
    return f"{own} Taught by {teacher}: {licence_of(teacher)}."


def _accuracy(recipe: Recipe, found: Retrieval) -> str:
    return (
        f"{recipe.held_out} images of each style, of other simulated patients, in batches of "
        f"{found.size} pairs, each with other facts ({found.kinds} in all), captions that say all "
        f"of them: image to text {found.image_to_text:.1%} top-1, text to image "
        f"{found.text_to_image:.1%} (chance {1 / found.size:.1%})."
    )
