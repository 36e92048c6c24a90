"""Weights that a fit may begin from: packaged ones and those of a run. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scanomaly.config.experiment import MODEL_FILE
from scanomaly.errors import ConfigError

PACKAGED = Path(__file__).parent / "assets"


def warm_starts() -> Sequence[str]:
    """Names of those that come with the package."""
    return sorted(file.stem for file in PACKAGED.glob("*.safetensors"))


def warm_start_file(name: str) -> Path:
    """A packaged name, a run folder or its model to the file. Raises ConfigError."""
    if name in warm_starts():
        return PACKAGED / f"{name}.safetensors"
    path = Path(name) / MODEL_FILE if Path(name).is_dir() else Path(name)
    if path.is_file():
        return path
    raise ConfigError(
        f"fit.warm_start={name}: expected a packaged name ({', '.join(warm_starts())}) or the "
        "path of a run folder or model.safetensors; set it to null to start from nothing."
    )
