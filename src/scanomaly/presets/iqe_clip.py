"""IQE-CLIP: few-shot, zero-shot, the ablations on Brain, and the paper as written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from scanomaly.config.data import DataConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.iqe_clip import (
    BranchWeights,
    IqeClipConfig,
    LossConfig,
    PromptConfig,
    QueryConfig,
    ScoreConfig,
)
from scanomaly.config.run import Run

PAPER = "IQE-CLIP, arXiv 2506.10730"
CODE_SCORES: Mapping[str, ScoreConfig] = {
    "few": ScoreConfig(image="map_mean"),
    "zero": ScoreConfig(image="patch_mean"),
}
DATA: Mapping[str, DataConfig] = {
    "few": DataConfig(supervision="few_shot", shots=4, copies="mvfa"),
    "zero": DataConfig(supervision="zero_shot"),
}
SETTINGS: Mapping[str, str] = {"few": "few-shot, K = 4", "zero": "zero-shot"}
"""Middle of a preset's name -> in words."""


def _fit(setting: str, learning_rate: float, batch_size: int) -> FitOptions:
    """Adam at a constant rate (spec section 7). Few images never change: features are kept."""
    return FitOptions(
        epochs=50,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule="constant",
        betas=(0.5, 0.999),
        cache_features=setting == "few",
    )


def _iqe(setting: str, suffix: str, where: str, fields: Mapping[str, Any]) -> Run:
    return Run(
        preset=f"iqe-{setting}{suffix}",
        source=f"{PAPER}, {SETTINGS[setting]}, {where}",
        method="iqe_clip",
        config=IqeClipConfig(**{"score": CODE_SCORES[setting], **fields}),
        data=DATA[setting],
        fit=_fit(setting, learning_rate=1e-4, batch_size=16),
    )


NO_PROMPTS = PromptConfig(class_tokens=0, learned=0)

ABLATION_ROWS: Mapping[str, tuple[dict[str, Any], str]] = {
    "baseline": ({"prompts": NO_PROMPTS, "queries": None}, "baseline"),
    "no-prompt-tuning": ({"prompts": NO_PROMPTS}, "no prompt tuning"),
    "no-iqm": ({"queries": None}, "no IQM"),
    "no-class-tokens": ({"prompts": PromptConfig(class_tokens=0)}, "no class tokens"),
    "no-learnable-tokens": ({"prompts": PromptConfig(learned=0)}, "no learnable tokens"),
    "no-class-initialisation": (
        {"queries": QueryConfig(condition="none")},
        "no class initialisation of the queries",
    ),
    "no-text-in-iqm": ({"queries": QueryConfig(text=False)}, "no text in IQM"),
    "no-image-in-iqm": ({"queries": QueryConfig(image=False)}, "no image in IQM"),
}
"""Ablations on Brain (paper Tables 3 to 5): preset suffix -> (fields that differ, row)."""

AS_WRITTEN: Mapping[str, Any] = {
    "prompts": PromptConfig(condition="mlp", learned=4),
    "queries": QueryConfig(condition="mlp", order="paper"),
    "level_activation": "relu",
    "temperature": "none",
    "loss": LossConfig(
        weights=BranchWeights(text=0.8, query=0.2), pooled="map_max", classification="plain"
    ),
    "score": ScoreConfig(sigma=0.0, image="map_max"),
}
"""Where the paper's text differs from the released code (spec section 10)."""


def _released(setting: str) -> Run:
    return _iqe(setting, "", "released code", {})


def _as_written(setting: str) -> Run:
    run = _iqe(setting, "-as-written", "as written", AS_WRITTEN)
    return run.model_copy(update={"fit": _fit(setting, learning_rate=1e-3, batch_size=32)})


def _ablation(setting: str, suffix: str) -> Run:
    fields, row = ABLATION_ROWS[suffix]
    return _iqe(setting, f"-{suffix}", f"ablation on Brain: {row}", fields)


IQE_PRESETS: Mapping[str, Callable[[], Run]] = {
    **{f"iqe-{setting}": partial(_released, setting) for setting in SETTINGS},
    **{f"iqe-{setting}-as-written": partial(_as_written, setting) for setting in SETTINGS},
    **{
        f"iqe-{setting}-{suffix}": partial(_ablation, setting, suffix)
        for setting in SETTINGS
        for suffix in ABLATION_ROWS
    },
}
