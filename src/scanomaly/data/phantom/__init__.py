"""Simulated patients with and without lesions on MNI152 anatomy: demo, tests, pre-training.

The way through the files: anatomy -> patient -> imaging (with lesions and artefacts) -> simulate
-> styles (the brain and others unlike it) -> dataset; appearance, shapes and fields lie below.
heads: the same with skull and scalp, and anomalies to ask questions about.
"""

from scanomaly.data.phantom.dataset import write_phantom, write_style, write_styles
from scanomaly.data.phantom.errors import AnatomyMissingError, PhantomError
from scanomaly.data.phantom.heads import write_heads, write_question_heads
from scanomaly.data.phantom.imaging import Lesion
from scanomaly.data.phantom.patient import PIXEL_MM, SIDE
from scanomaly.data.phantom.simulate import (
    ALL_CONTRASTS,
    PhantomSlice,
    healthy_slices,
    simulate_patient,
)
from scanomaly.data.phantom.styles import STYLES, Style, StyledSlice

__all__ = [
    "ALL_CONTRASTS",
    "PIXEL_MM",
    "SIDE",
    "STYLES",
    "AnatomyMissingError",
    "Lesion",
    "PhantomError",
    "PhantomSlice",
    "Style",
    "StyledSlice",
    "healthy_slices",
    "simulate_patient",
    "write_heads",
    "write_phantom",
    "write_question_heads",
    "write_style",
    "write_styles",
]
