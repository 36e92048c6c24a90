"""Pretrained weights: which there are, where they lie, how to fetch and check them.

Nothing is downloaded unasked: `fetch` alone touches the network. Loads no torch to list or locate.
"""

from scanomaly.backbones.weights.fetching import Progress, fetch
from scanomaly.backbones.weights.inventory import INVENTORY, Pretrained, describe
from scanomaly.backbones.weights.places import (
    WEIGHT_FILES,
    directories,
    find,
    locate,
    missing_message,
    weight_file,
)
from scanomaly.backbones.weights.verification import Finding, verify

__all__ = [
    "INVENTORY",
    "WEIGHT_FILES",
    "Finding",
    "Pretrained",
    "Progress",
    "describe",
    "directories",
    "fetch",
    "find",
    "locate",
    "missing_message",
    "verify",
    "weight_file",
]
