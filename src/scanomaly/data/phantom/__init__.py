"""Simulated patients with and without lesions on MNI152 anatomy: demo, tests, pre-training.

The way through the files: anatomy -> patient -> imaging (with lesions and artefacts) -> simulate
-> dataset; appearance, shapes and fields lie below.
"""

from scanomaly.data.phantom.dataset import write_phantom
from scanomaly.data.phantom.errors import AnatomyMissingError, PhantomError
from scanomaly.data.phantom.imaging import Lesion
from scanomaly.data.phantom.patient import PIXEL_MM, SIDE
from scanomaly.data.phantom.simulate import (
    ALL_CONTRASTS,
    PhantomSlice,
    healthy_slices,
    simulate_patient,
)

__all__ = [
    "ALL_CONTRASTS",
    "PIXEL_MM",
    "SIDE",
    "AnatomyMissingError",
    "Lesion",
    "PhantomError",
    "PhantomSlice",
    "healthy_slices",
    "simulate_patient",
    "write_phantom",
]
