"""Published checkpoints to run folders: read without code, every entry accounted for."""

from __future__ import annotations

from pathlib import Path

from scanomaly.config.run import Run
from scanomaly.config.vqa import VqaRun
from scanomaly.errors import ConfigError, FitError
from scanomaly.importing.answerers import import_answerer
from scanomaly.importing.detectors import Images, import_detector
from scanomaly.importing.published import read_published
from scanomaly.importing.recognising import LAYOUTS, method_of, preset_for
from scanomaly.importing.records import Imported

__all__ = ["LAYOUTS", "Images", "Imported", "import_checkpoint", "preset_for"]


def import_checkpoint(
    name: str,
    file: Path,
    run: Run | VqaRun,
    out: Path,
    *,
    images: Images | None = None,
    device: str = "auto",
) -> Imported:
    """Make a run folder of a published file. name: a key of LAYOUTS.

    Nothing is written before everything fits. Raises FitError for a folder that holds something,
    and CheckpointError, ConfigError, DataError or WeightsError, which say what to do.
    """
    layout, images = LAYOUTS[name], images or Images()
    if method_of(run) != layout.method:
        raise ConfigError(
            f"{run.preset} is a run of {method_of(run)}, and `import {name}` makes one of "
            f"{layout.method}; give another preset."
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FitError(f"{out} is there already and not empty; give --out a new folder.")
    published = read_published(file)
    if isinstance(run, Run):
        return import_detector(published, layout, run, out, images, device)
    if images != Images():
        raise ConfigError("--dataset, --data and --calibrate are for detectors; leave them out.")
    return import_answerer(published, layout, run, out)
