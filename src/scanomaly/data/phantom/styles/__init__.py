"""Five kinds of simulated images, each healthy and diseased: one file a style."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from scanomaly.data.phantom.styles.brain import BRAIN, brain_style
from scanomaly.data.phantom.styles.chest import CHEST
from scanomaly.data.phantom.styles.ct import CT
from scanomaly.data.phantom.styles.oct import OCT
from scanomaly.data.phantom.styles.style import SLICES, Style, StyledSlice
from scanomaly.data.phantom.styles.tissue import TISSUE

STYLES: Mapping[str, Style[Any]] = MappingProxyType(
    {"brain": BRAIN, "oct": OCT, "ct": CT, "tissue": TISSUE, "chest": CHEST}
)

__all__ = ["SLICES", "STYLES", "Style", "StyledSlice", "brain_style"]
