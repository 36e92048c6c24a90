"""Where the data sets of the tables come from, and under which licence. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scanomaly.bench.tables.mvfa import MVTEC_OBJECTS
from scanomaly.bench.tables.table import MI_VQA
from scanomaly.data.phantom import STYLES


@dataclass(frozen=True, slots=True)
class Source:
    """How to get a data set. licence: in words; the owners' terms count, not these."""

    where: str
    licence: str


_BMAD = (
    "part of BMAD, https://github.com/DorisBao/BMAD; unpack it into the folder given with --data"
)
_BMAD_LICENCE = "CC BY-NC-SA 4.0, non-commercial, and the terms of {}"
_MVTEC = "an object of MVTec AD, from mvtec.com; unpack it into the folder given with --data"
_SIMULATED = "simulate it with `scanomaly phantom DIR --styles all`, or leave --data out"

SOURCES: Mapping[str, Source] = {
    **{
        name: Source(_BMAD, _BMAD_LICENCE.format(origin))
        for name, origin in {
            "Brain": "BraTS2021",
            "Liver": "BTCV and LiTS",
            "Retina_RESC": "the RESC challenge",
            "Retina_OCT2017": "OCT2017 (CC BY 4.0)",
            "Chest": "the RSNA Pneumonia challenge",
            "Histopathology": "Camelyon16 (CC0)",
        }.items()
    },
    MI_VQA: Source(
        "linked from https://github.com/compai-lab/miccai-2024-junli; unpack it into a folder "
        f"{MI_VQA} of the one given with --data",
        "that of fastMRI, whose agreement must be signed",
    ),
    **dict.fromkeys(MVTEC_OBJECTS, Source(_MVTEC, "CC BY-NC-SA 4.0, non-commercial")),
    **{style.name: Source(_SIMULATED, "ours, Apache-2.0") for style in STYLES.values()},
}
"""Data set -> how to get it."""


def how_to_get(dataset: str) -> str:
    """In words, for someone who lacks it."""
    source = SOURCES.get(dataset)
    if source is None:
        return "put it into the folder given with --data."
    return f"get it: {source.where}; licence: {source.licence}."
