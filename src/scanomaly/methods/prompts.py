"""MVFA's prompt ensemble: what a normal and an abnormal image are called.

Source: the released code of arXiv 2403.12570 (spec section 5), word by word.

N prompts, E width of text features
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from scanomaly.backbones.clip import tokenize
from scanomaly.errors import ConfigError

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL_STATES = (
    "damaged {}",
    "broken {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
)
TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "a dark photo of a {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)
STATES = (NORMAL_STATES, ABNORMAL_STATES)
AT_ONCE = 64
"""Prompts encoded together."""


class TextEncoder(Protocol):
    """What the ensemble asks of a text tower."""

    @property
    def positions(self) -> Tensor: ...
    def encode(self, ids: Tensor) -> Tensor: ...


def prompts(words: str) -> tuple[list[str], list[str]]:
    """Normal and abnormal prompts of an object: every state in every template, state by state."""
    normal, abnormal = (
        [template.format(state.format(words)) for state in states for template in TEMPLATES]
        for states in STATES
    )
    return normal, abnormal


@torch.no_grad()
def ensemble(text: TextEncoder, words: str) -> Tensor:
    """Unit text features (E, 2) in fp32: the mean normal prompt, the mean abnormal one."""
    columns = []
    for sentences in prompts(words):
        ids = tokenize(sentences).to(text.positions.device)
        features = torch.cat([text.encode(some).float() for some in ids.split(AT_ONCE)])  # (N, E)
        columns.append(F.normalize(F.normalize(features, dim=-1).mean(dim=0), dim=0))
    return torch.stack(columns, dim=1)


class Texts:
    """Text features of objects, each encoded once, in the order they were first asked for."""

    def __init__(self, text: TextEncoder) -> None:
        self._text = text
        self._known: dict[str, Tensor] = {}

    def index(self, words: str) -> int:
        """Where `stacked` has that object."""
        if words not in self._known:
            self._known[words] = ensemble(self._text, words)
        return list(self._known).index(words)

    def stacked(self) -> Tensor:
        """(objects, E, 2)."""
        return torch.stack(list(self._known.values()))


def require_object(words: str | None) -> str:
    """What the images show, in words. Raises ConfigError where a configuration does not say it."""
    if words is None:
        raise ConfigError(
            "config.object is what the images show, in words, and is not set; set it, such as "
            "--set 'config.object=chest X-ray', or take config.for_dataset(NAME)."
        )
    return words
