"""A named experiment, resolved: what is saved as run.yaml and reproduces the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.base import Frozen, MethodConfig
from scanomaly.config.data import DataConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.iqe_clip import IqeClipConfig
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.config.qfae import AutoencoderConfig, QFAEConfig
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.files import write_text

RUN_FORMAT: Literal[1] = 1
RUN_FILE = "run.yaml"

CONFIGS: Mapping[str, type[MethodConfig]] = {
    "qfae": QFAEConfig,
    "autoencoder": AutoencoderConfig,
    "iqe_clip": IqeClipConfig,
    "mvfa": MVFAConfig,
}
"""Method -> its configuration model; the detectors themselves are in methods.METHODS."""


class Run(Frozen):
    """Everything that decides a run, besides the images."""

    format: Literal[1] = RUN_FORMAT
    preset: str
    source: str
    """Where the experiment comes from: paper and table, or our own measurements."""
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

    def save(self, folder: Path) -> None:
        """Write run.yaml into `folder`."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(folder / RUN_FILE, text)

    def under(self, protocol: Literal["honest", "paper"]) -> Run:
        """The run under a protocol; published zero-shot training takes the others' test images."""
        update: dict[str, Any] = {"protocol": protocol}
        if protocol == "paper" and self.data.supervision == "zero_shot":
            update["data"] = self.data.model_copy(update={"training_folder": "test"})
        return self.model_copy(update=update)

    def with_overrides(self, assignments: Sequence[str]) -> Run:
        """A copy with fields replaced by `path=value`; roots are config, data and fit.

        Values are parsed as YAML. Raises ConfigError; an unknown field lists the valid ones.
        """
        values = self.model_dump(mode="python")
        for assignment in assignments:
            path, separator, text = assignment.partition("=")
            if not separator:
                raise ConfigError(f"expected --set path=value, got {assignment!r}.")
            _assign(values, path.strip(), _parse(path, text), self)
        return _validated(values, "the options given with --set")


def load_run(path: Path) -> Run:
    """Read a run.yaml (or the one in a run folder)."""
    file = path / RUN_FILE if path.is_dir() else path
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: expected a run folder with {RUN_FILE}, found none; `scanomaly fit` makes one."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read as YAML: {_first_line(error)}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: expected the fields of a run, got {type(values).__name__}.")
    found = values.get("format")
    if isinstance(found, int) and found > RUN_FORMAT:
        raise CheckpointError(
            f"{file} has format {found} and this Scanomaly reads up to {RUN_FORMAT}; "
            "upgrade with `pip install -U scanomaly`."
        )
    return _validated(values, str(file))


def backbone_names(run: Run) -> list[str]:
    """Names of the pretrained weights that a run's configuration asks for, each once."""
    return list(dict.fromkeys(_names_in(run.config)))


def _names_in(values: Any) -> Iterator[str]:
    if isinstance(values, BackboneConfig):
        yield values.name
    elif isinstance(values, BaseModel):
        for field in type(values).model_fields:
            yield from _names_in(getattr(values, field))
    elif isinstance(values, tuple):
        for value in values:
            yield from _names_in(value)


def _validated(values: Mapping[str, Any], origin: str) -> Run:
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_in_words(p["loc"], p["msg"]) for p in error.errors())
        raise ConfigError(f"{origin}: {problems}") from error


def _in_words(place: Sequence[int | str], message: str) -> str:
    """Such as `config.side: Input should be greater than 0`."""
    said = message.removeprefix("Value error, ")  # pydantic's word for our own validators
    return f"{'.'.join(map(str, place))}: {said}" if place else said


def _parse(path: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}: {text!r} is not YAML: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _assign(values: dict[str, Any], path: str, value: Any, run: Run) -> None:
    """Replace one leaf of the nested values; tuples are indexed by number."""
    *parents, leaf = path.split(".")
    roots = ("config", "data", "fit")
    if not parents or parents[0] not in roots:
        raise ConfigError(f"--set {path}: a path begins with one of {', '.join(roots)}.")
    target: Any = values
    for part in parents:
        target = target[_key(target, part, path)]
        if isinstance(target, tuple):
            raise ConfigError(f"--set {path}: set the whole list at once, as YAML.")
    target[_key(target, leaf, path)] = value


def _key(target: Any, part: str, path: str) -> str:
    if not isinstance(target, dict):
        parent = path.partition(f".{part}")[0]
        raise ConfigError(f"--set {path}: {parent} is one value and has no field {part!r}.")
    if part not in target:
        raise ConfigError(f"--set {path}: no field {part!r}; there are {', '.join(target)}.")
    return part
