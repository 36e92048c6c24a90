"""The data of our own table: five styles of simulated images, made once for each seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scanomaly.data.phantom import write_styles

PATIENTS = 120
"""Of each style."""
SLICES = 4
"""Of each patient: more patients tell more than more slices of the same ones."""
FINER = 3
"""So that brains give enough slices that meet their lesion: 16 of each kind to learn from."""


def simulated_folder(out: Path, seed: int) -> Path:
    """Where the data of a seed lies in a bench folder."""
    return out / "data" / f"seed-{seed}"


def simulate(
    out: Path,
    seed: int,
    *,
    patients: int = PATIENTS,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Simulate what is not there yet; the folder of data sets. Raises PhantomError."""
    folder = simulated_folder(out, seed)
    write_styles(
        folder,
        ("all",),
        patients=patients,
        seed=seed,
        slices=SLICES,
        finer=FINER,
        progress=progress,
    )
    return folder
