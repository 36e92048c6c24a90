"""The papers' experiments and our own, as functions that return a Run. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scanomaly.config.run import Run, backbone_names
from scanomaly.errors import ConfigError
from scanomaly.presets.iqe_clip import IQE_PRESETS
from scanomaly.presets.mvfa import MVFA_PRESETS
from scanomaly.presets.offline import OFFLINE_PRESETS
from scanomaly.presets.qfae import QFAE_PRESETS

PRESETS: Mapping[str, Callable[[], Run]] = {
    **QFAE_PRESETS,
    **MVFA_PRESETS,
    **IQE_PRESETS,
    **OFFLINE_PRESETS,
}
"""Every named experiment."""


def preset(name: str) -> Run:
    """The Run of a named experiment. Raises ConfigError listing the names there are."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]()


def presets_by_weight() -> dict[str, list[str]]:
    """Pretrained weight -> names of the presets that need it."""
    users: dict[str, list[str]] = {}
    for name in PRESETS:
        for weight in backbone_names(preset(name)):
            users.setdefault(weight, []).append(name)
    return users
