"""One image of a data set, as every reader describes it. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Row:
    """One image: where it is and what is known of it; None stands for unknown.

    label: True = abnormal. mask: file whose positive pixels are abnormal; a normal image needs none
    (all zeros). patient: whoever the image shows, the unit of splits and of confidence intervals.
    kind: of the anomaly, in the data set's words.
    """

    id: str
    path: Path
    split: Split | None = None
    label: bool | None = None
    mask: Path | None = None
    patient: str | None = None
    dataset: str = ""
    kind: str | None = None
