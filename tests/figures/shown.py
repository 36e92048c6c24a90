"""A detector whose embeddings are easy to foretell, on noisy images with brighter squares."""

from dataclasses import replace
from pathlib import Path

import torch

from noise_bench import Bench, Brightness, make_bench
from scanomaly.config.run import Run
from scanomaly.records import Batch, Embedding

GRID = 4


class Shown(Brightness):
    """Patches of the red channel, 4x4 pixels each, and two vectors of the image's mean."""

    def embeddings(self, batch: Batch) -> list[Embedding]:
        red = batch.image[:, 0]
        patches = red.unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).flatten(1, 2)  # (B, L, 16)
        mean = red.mean(dim=(1, 2))
        one, other = torch.stack([mean, 1 - mean], dim=1), torch.stack([1 - mean, mean], dim=1)
        return [
            Embedding("features", "frozen", "block 0", patches),
            Embedding("features", "adapted", "block 0", patches.flip(2) + 1),
            Embedding("prompts", "embeddings", "block 0", one, "text"),
            Embedding("prompts", "embeddings", "block 0", other, "query"),
        ]


def make_shown(run: Run, folder: Path) -> Bench:
    """28 images, half of them abnormal, as a validation split, and the detector."""
    bench = make_bench(run, folder)
    rows = tuple(replace(row, split="valid") for row in bench.manifest)
    return Bench(
        replace(bench.fitted, detector=Shown()), replace(bench.manifest, rows=rows, dataset="Brain")
    )
