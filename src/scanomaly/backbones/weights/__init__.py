"""Pretrained weights: which there are, where they lie, how to fetch and check them.

Nothing is downloaded unasked: `fetch` alone touches the network. Loads no torch to list or locate.
"""

from scanomaly.backbones.weights.fetching import Progress, fetch
from scanomaly.backbones.weights.inventory import (
    INVENTORY,
    Pretrained,
    describe,
    described,
    is_language,
    licence_of,
)
from scanomaly.backbones.weights.places import (
    CLIP_WEIGHT_FILES,
    ENVIRONMENT_VARIABLE,
    WEIGHT_FILES,
    directories,
    find,
    find_repository,
    locate,
    missing_message,
    require_weights,
    weight_file,
)
from scanomaly.backbones.weights.verification import Finding, verify

__all__ = [
    "CLIP_WEIGHT_FILES",
    "ENVIRONMENT_VARIABLE",
    "INVENTORY",
    "WEIGHT_FILES",
    "Finding",
    "Pretrained",
    "Progress",
    "describe",
    "described",
    "directories",
    "fetch",
    "find",
    "find_repository",
    "is_language",
    "licence_of",
    "locate",
    "missing_message",
    "require_weights",
    "verify",
    "weight_file",
]
