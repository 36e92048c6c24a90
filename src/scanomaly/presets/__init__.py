"""The papers' experiments and our own: functions that return a Run or VqaRun. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scanomaly.config.run import Run, backbone_names
from scanomaly.config.vqa import VqaRun
from scanomaly.errors import ConfigError
from scanomaly.presets.baselines import BASELINE_PRESETS
from scanomaly.presets.iqe_clip import IQE_PRESETS
from scanomaly.presets.mvfa import MVFA_PRESETS
from scanomaly.presets.offline import OFFLINE_PRESETS
from scanomaly.presets.qfae import QFAE_PRESETS
from scanomaly.presets.vqa import VQA_PRESETS

__all__ = ["PRESETS", "VQA_PRESETS", "preset", "presets_by_weight", "vqa_preset"]

PRESETS: Mapping[str, Callable[[], Run]] = {
    **QFAE_PRESETS,
    **MVFA_PRESETS,
    **IQE_PRESETS,
    **OFFLINE_PRESETS,
    **BASELINE_PRESETS,
}
"""Every named experiment of `scanomaly fit`."""


def preset(name: str) -> Run:
    """The Run of a named experiment. Raises ConfigError listing the names there are."""
    if name in VQA_PRESETS:
        raise ConfigError(f"{name} answers questions; fit it with `scanomaly vqa fit`.")
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]()


def vqa_preset(name: str) -> VqaRun:
    """The VqaRun of a named experiment. Raises ConfigError listing the names there are."""
    if name in PRESETS:
        raise ConfigError(f"{name} is a detector; fit it with `scanomaly fit`.")
    if name not in VQA_PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(VQA_PRESETS)}.")
    return VQA_PRESETS[name]()


def presets_by_weight() -> dict[str, list[str]]:
    """Pretrained weight -> names of the presets that need it."""
    users: dict[str, list[str]] = {}
    runs = [make() for make in (*PRESETS.values(), *VQA_PRESETS.values())]
    for run in runs:
        for weight in backbone_names(run):
            users.setdefault(weight, []).append(run.preset)
    return users
