"""What the run of a detector and that of an answerer share: run.yaml, `--set`, reading it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import ValidationError

from scanomaly.config.base import Frozen
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.files import write_text

RUN_FORMAT: Literal[1] = 1
RUN_FILE, MODEL_FILE = "run.yaml", "model.safetensors"
"""In a run folder: the experiment, and what was fitted."""
VERBS: Mapping[str, str] = {"detector": "scanomaly", "vqa": "scanomaly vqa"}
"""Kind of a run -> the words before `fit` and `evaluate` that make it and read it."""


class Experiment(Frozen):
    """A named experiment, resolved: what is saved as run.yaml and reproduces the run.

    Its subclasses add `config`, `data` and `fit`.
    """

    format: Literal[1] = RUN_FORMAT
    kind: str
    """Whose run it is: a key of VERBS."""
    preset: str
    source: str
    """Where the experiment comes from: paper and table, or our own measurements."""

    def save(self, folder: Path) -> None:
        """Write run.yaml into `folder`."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(folder / RUN_FILE, text)

    def with_overrides(self, assignments: Sequence[str]) -> Self:
        """A copy with fields replaced by `path=value`; roots are config, data and fit.

        Values are parsed as YAML. Raises ConfigError; an unknown field lists the valid ones.
        """
        values = self.model_dump(mode="python")
        for assignment in assignments:
            path, separator, text = assignment.partition("=")
            if not separator:
                raise ConfigError(f"expected --set path=value, got {assignment!r}.")
            _assign(values, path.strip(), _parse(path, text))
        return self._validated(values, "the options given with --set")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a run.yaml (or the one in a run folder).

        Raises CheckpointError, for another kind of run too.
        """
        file = path / RUN_FILE if path.is_dir() else path
        kind = str(cls.model_fields["kind"].default)
        values = _fields_of(file, path, VERBS[kind])
        found = values.get("format")
        if isinstance(found, int) and found > RUN_FORMAT:
            raise CheckpointError(
                f"{file} has format {found} and this Scanomaly reads up to {RUN_FORMAT}; "
                "upgrade with `pip install -U scanomaly`."
            )
        theirs = values.get("kind", "detector")
        if theirs != kind and theirs in VERBS:
            raise CheckpointError(
                f"{path}: expected the run of `{VERBS[kind]} fit`, found one of "
                f"`{VERBS[theirs]} fit`; use `{VERBS[theirs]} evaluate`, or give another folder."
            )
        return cls._validated(values, str(file))

    @classmethod
    def _validated(cls, values: Mapping[str, Any], origin: str) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(_in_words(p["loc"], p["msg"]) for p in error.errors())
            raise ConfigError(f"{origin}: {problems}") from error


def _fields_of(file: Path, path: Path, verb: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: expected a run folder with {RUN_FILE}, found none; `{verb} fit` makes one."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read as YAML: {_first_line(error)}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: expected the fields of a run, got {type(values).__name__}.")
    return values


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


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
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
