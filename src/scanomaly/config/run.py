"""The run of a detector: which method, on which data, trained how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from scanomaly.config.anomalib_models import AnomalibConfig
from scanomaly.config.backbones import PretrainedConfig
from scanomaly.config.base import MethodConfig
from scanomaly.config.data import DataConfig
from scanomaly.config.experiment import Experiment
from scanomaly.config.fit import FitOptions
from scanomaly.config.iqe_clip import IqeClipConfig
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.config.prompted_clip import PromptedClipConfig
from scanomaly.config.qfae import AutoencoderConfig, QFAEConfig

CONFIGS: Mapping[str, type[MethodConfig]] = {
    "qfae": QFAEConfig,
    "autoencoder": AutoencoderConfig,
    "iqe_clip": IqeClipConfig,
    "mvfa": MVFAConfig,
    "prompted_clip": PromptedClipConfig,
    "anomalib": AnomalibConfig,
}
"""Method -> its configuration model; the detectors themselves are in methods.METHODS."""


class Run(Experiment):
    """Everything that decides a detector's run, besides the images."""

    kind: Literal["detector"] = "detector"
    method: str
    protocol: Literal["honest", "paper"] = "honest"
    """paper: as published, even where that is not honest; reports say so."""
    config: SerializeAsAny[MethodConfig]
    data: DataConfig = DataConfig()
    fit: FitOptions = FitOptions()

    @field_validator("config", mode="before")
    @classmethod
    def _config_of_the_method(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        method = str(info.data.get("method"))
        if method not in CONFIGS:
            raise ValueError(f"method {method!r} is unknown; known are {', '.join(CONFIGS)}.")
        return CONFIGS[method].model_validate(value)

    @model_validator(mode="after")
    def _cached_images_do_not_change(self) -> Self:
        if self.fit.cache_features and self.data.augmentation != "none":
            raise ValueError(
                "fit.cache_features keeps the features of unchanged images; set "
                "data.augmentation=none or fit.cache_features=false."
            )
        return self

    def under(self, protocol: Literal["honest", "paper"]) -> Run:
        """The run under a protocol; published zero-shot training takes the others' test images.

        Under its own protocol a run stays as it is, and so does the folder it trains on.
        """
        if protocol == self.protocol:
            return self
        data = self.data
        if data.supervision == "zero_shot":
            folder = "test" if protocol == "paper" else DataConfig().training_folder
            data = data.model_copy(update={"training_folder": folder})
        return self.model_copy(update={"protocol": protocol, "data": data})


def load_run(path: Path) -> Run:
    """Read a detector's run.yaml (or the one in a run folder). Raises CheckpointError."""
    return Run.load(path)


def backbone_names(run: Experiment) -> list[str]:
    """Names of the pretrained weights that a run's configuration asks for, each once."""
    return list(dict.fromkeys(network.name for network in pretrained_networks(run)))


def pretrained_networks(values: Any) -> Iterator[PretrainedConfig]:
    """The networks of a run's configuration that need weight files."""
    if isinstance(values, PretrainedConfig):
        if not values.is_random:
            yield values
    elif isinstance(values, BaseModel):
        for field in type(values).model_fields:
            yield from pretrained_networks(getattr(values, field))
    elif isinstance(values, tuple):
        for value in values:
            yield from pretrained_networks(value)
