"""Makes the warm start of preset qfae-offline: healthy phantom slices, QFAE from scratch.

Only simulated healthy patients are used; they never occur in `scanomaly phantom` at any seed.
On a CPU, two processes with one thread each are faster than one with two:

    OMP_NUM_THREADS=1 python recipes/warm_start.py WORK --devices 2
    OMP_NUM_THREADS=1 python recipes/warm_start.py WORK --devices 2 --run second \
        --begin-with WORK/run --learning-rate 6e-4
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from scanomaly.data.manifest import read_manifest
from scanomaly.data.phantom import healthy_slices
from scanomaly.fitting import fit
from scanomaly.presets import preset
from scanomaly.run_folder import MODEL_FILE
from scanomaly.training import is_main_process

SEED = 20_000
SLICES_OF_A_PATIENT = 8
BATCH = 16
"""Half the preset's: with an hour to spend, more steps are worth more than larger ones."""
ASSET = Path(__file__).parents[1] / "src/scanomaly/assets/qfae-offline.safetensors"


def write_slices(folder: Path, count: int) -> None:
    """`count` healthy slices as train/good/img, and a tenth as many as valid/good/img."""
    for split, seed, number in (("train", SEED, count), ("valid", SEED + 1, count // 10)):
        target = folder / split / "good" / "img"
        target.mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(healthy_slices(seed, number)):
            patient, slice_ = divmod(index, SLICES_OF_A_PATIENT)
            name = f"{split}{patient:05d}_{slice_}.png"
            Image.fromarray(np.asarray(pixels)).save(target / name)
    (folder / "complete").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for slices and the run")
    parser.add_argument("--slices", type=int, default=6400)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--run", default="run", help="name of the run folder in WORK")
    parser.add_argument("--begin-with", default="null", help="run folder of an earlier stage")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    slices = options.work / "slices"
    if is_main_process() and not (slices / "complete").exists():
        write_slices(slices, options.slices)
    choices = {
        "accelerator": "cpu",
        "batch_size": BATCH,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "devices": options.devices,
        "warm_start": options.begin_with,
    }
    run = preset("qfae-offline-from-scratch").with_overrides(
        [f"fit.{name}={value}" for name, value in choices.items()]
    )
    folder = options.work / options.run
    fitted = fit(run, read_manifest(slices), folder, resume=options.resume)
    if fitted is not None:
        ASSET.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / MODEL_FILE, ASSET)
        logging.info("warm start: %s", ASSET)


if __name__ == "__main__":
    main()
