"""What a file looks like, and which command and presets fit it: all before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from scanomaly.config.experiment import Experiment
from scanomaly.config.run import Run
from scanomaly.config.vqa import VqaRun
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.importing.iqe_clip import IQE_CLIP
from scanomaly.importing.kq_former import KQ_FORMER
from scanomaly.importing.layout import VQA, Facts, Layout
from scanomaly.importing.mvfa import MVFA
from scanomaly.importing.published import Published
from scanomaly.importing.qfae import QFAE
from scanomaly.presets import PRESETS, VQA_PRESETS

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout for layout in (QFAE, MVFA, IQE_CLIP, KQ_FORMER)
}
"""Word behind `scanomaly import` -> published layout."""
TABLES: tuple[Mapping[str, Callable[[], Run | VqaRun]], ...] = (PRESETS, VQA_PRESETS)
SHOWN = 3
"""Presets and keys named in a message."""


def preset_for(layout: Layout, name: str) -> Run | VqaRun:
    """The run of a named experiment of that system. Raises ConfigError naming those there are."""
    made = [table[name]() for table in TABLES if name in table]
    run = made[0] if made else None
    if run is None or method_of(run) != layout.method:
        known = ", ".join(run.preset for run in _presets(layout))
        problem = "unknown" if run is None else f"of {method_of(run)}"
        raise ConfigError(
            f"--preset {name} is {problem}; `import {layout.name}` takes one of {known}."
        )
    return run


def method_of(run: Experiment) -> str:
    return run.method if isinstance(run, Run) else VQA


def require_fit(
    published: Published, layout: Layout, run: Experiment, dataset: str | None = None
) -> None:
    """Raises CheckpointError for another system's file, or one that this run's sizes do not fit.

    It says what the file looks like, and which command or preset takes it.
    """
    if not layout.recognises(published.shapes):
        raise CheckpointError(f"{published.file} {_of_another(published, layout)}")
    ours = layout.facts_of(run, dataset)
    inside, by_name = dict(layout.facts(published.shapes)), dict(layout.named(published.file))
    differences = [
        *_differences(inside, ours, "in the file"),
        *_differences(by_name, ours, "by its path (copy it elsewhere if that misleads)"),
    ]
    if not differences:
        return
    fitting = ", ".join(_fitting(published, layout)[:SHOWN])
    presets = f"presets that fit: {fitting}" if fitting else "no preset fits as it is: use --set"
    raise CheckpointError(
        f"{published.file} looks like {layout.system} with {_in_words(inside | by_name)}, and does "
        f"not fit {run.preset}: {'; '.join(differences)}; {presets}."
    )


def _of_another(published: Published, asked: Layout) -> str:
    for layout in LAYOUTS.values():
        if layout.recognises(published.shapes):
            (first, *_) = [*_fitting(published, layout), "NAME"]
            return (
                f"is no checkpoint of {asked.system}; it looks like {layout.system} with "
                f"{_in_words(_told(published, layout))}: "
                f"`scanomaly import {layout.name} FILE --preset {first}`."
            )
    keys = [*published.tensors, *published.strange]
    return (
        f"is no checkpoint of {asked.system}, nor of another published layout "
        f"({', '.join(LAYOUTS)}): {len(keys)} entries"
        f"{', such as ' + ', '.join(keys[:SHOWN]) if keys else ''}; give the file that the "
        "published code saved."
    )


def _told(published: Published, layout: Layout) -> Facts:
    """What the shapes say, and what the file's path says."""
    return {**layout.facts(published.shapes), **layout.named(published.file)}


def _differences(told: Facts, ours: Facts, where: str) -> Iterator[str]:
    for what, value in told.items():
        if what in ours and ours[what] != value:
            option = f" (--set {what}={value})" if what.startswith(("config.", "data.")) else ""
            yield f"{what} is {value} {where} and {ours[what]} in the run{option}"


def _fitting(published: Published, layout: Layout) -> list[str]:
    """Names of the presets that the file fits, by what is known without building them."""
    told = {k: v for k, v in _told(published, layout).items() if k != "data.shots"}
    return [
        run.preset
        for run in _presets(layout)
        if not list(_differences(told, layout.facts_of(run, None), ""))
    ]


def _presets(layout: Layout) -> Iterator[Run | VqaRun]:
    runs = (make() for table in TABLES for make in table.values())
    return (run for run in runs if method_of(run) == layout.method)


def _in_words(facts: Facts) -> str:
    return ", ".join(f"{what.removeprefix('config.')} {value}" for what, value in facts.items())
