"""What an imported run folder says about where its weights come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scanomaly.importing.layout import Layout
from scanomaly.importing.published import Published
from scanomaly.run_folder import TrainingRecord


@dataclass(frozen=True, slots=True)
class Imported:
    """A run folder that was made. weights: pretrained ones it needs, with their licences."""

    folder: Path
    weights: tuple[str, ...]
    notes: tuple[str, ...]


def record(published: Published, layout: Layout, notes: Sequence[str]) -> TrainingRecord:
    """That it was imported, from which file, and what is known of its training."""
    state = published.training_state
    left_out = (f"left out with the state of training: {', '.join(state)}",) if state else ()
    return TrainingRecord(
        trained_on=f"not here: imported from {published.file.name} (sha256 {published.sha256}), "
        f"weights of {layout.system}; by its authors on {layout.trained}",
        checkpoint=f"by its authors: {layout.chosen}",
        notes=(f"published weights, {layout.origin}", *notes, *left_out),
    )
