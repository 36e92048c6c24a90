"""A fit of tiny MVFA on images half of which have no mask; also a script, for several processes.

    python partly_masked_fit.py RUN_DIR DEVICES

fits it on that many CPU processes and saves its fitted state in RUN_DIR/state.pt.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from methods.tiny_detectors import LabelledImages, few_shot_mvfa, random_images, weight_folders
from scanomaly.config.fit import FitOptions
from scanomaly.methods import MVFA
from scanomaly.records import Batch
from scanomaly.training import is_main_process

OPTIONS = FitOptions(
    epochs=3, batch_size=2, learning_rate=1e-3, schedule="constant", seed=3, accelerator="cpu"
)
"""Two images a step: both with a mask, one of them, or none."""


class PartlyMasked(LabelledImages):
    """The images of one of the two data sets have no masks."""

    def collate(self, items: list[int]) -> Batch:
        batch = super().collate(items)
        has_mask = torch.tensor([name == "Brain" for name in batch.datasets])
        return replace(batch, has_mask=has_mask)


def fit(run_dir: Path, devices: int = 1) -> MVFA:
    torch.manual_seed(0)
    detector = MVFA.build(few_shot_mvfa(weight_folders(run_dir.parent / f"weights of {devices}")))
    options = OPTIONS.model_copy(update={"devices": devices})
    detector.fit(PartlyMasked(random_images(8)), options=options, run_dir=run_dir)
    return detector


def main(run_dir: Path, devices: int) -> None:
    detector = fit(run_dir, devices)
    if is_main_process():
        torch.save(detector.fitted_state(), run_dir / "state.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
