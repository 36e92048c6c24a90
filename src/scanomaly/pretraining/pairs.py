"""Images and captions as a training set: another view and another wording in every epoch.

B pairs, S side in pixels, T tokens
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scanomaly.backbones.clip import tokenize
from scanomaly.pretraining.simulated import Facts, Series
from scanomaly.records import Draw

MOST_DEGREES = 10.0
SCALES = (0.8, 1.05)
"""Side of what a view shows, as a share of the image's."""
MOST_SHIFT = 0.06
"""As a share of the image's side."""
MOST_CONTRAST, MOST_BRIGHTNESS = 0.2, 0.1
UNCHANGED = 0
"""In place of epoch + 1 for pairs that are not augmented."""

Caption = Callable[[Mapping[str, str], np.random.Generator], str]
"""One of several wordings of facts."""


class Pair(NamedTuple):
    """pixels: uint8 (S, S) or (S, S, 3). view: (2, 3), light: (2,), as in PairBatch."""

    pixels: Tensor
    view: Tensor
    light: Tensor
    caption: str
    kind: int


class PairBatch(NamedTuple):
    """pixels: uint8 (B, 3, S, S). view: (B, 2, 3), where a view's pixels lie in the image.

    light: (B, 2), gain and offset. ids: (B, T). kind: (B,), equal where facts are equal.
    """

    pixels: Tensor
    view: Tensor
    light: Tensor
    ids: Tensor
    kind: Tensor

    def to(self, device: torch.device) -> Self:
        return type(self)(*(part.to(device) for part in self))

    def images(self, side: int) -> Tensor:
        """The views, (B, 3, side, side) in 0..1."""
        size = [len(self.pixels), 3, side, side]
        grid = F.affine_grid(self.view, size, align_corners=False)
        seen = F.grid_sample(self.pixels.float() / 255, grid, align_corners=False)
        gain, offset = self.light[:, :, None, None, None].unbind(dim=1)
        return ((seen - 0.5) * gain + 0.5 + offset).clamp(0, 1)


class Pairs:
    """Training data of several styles; facts are put into words when a pair is drawn."""

    def __init__(self, styles: Sequence[Series], caption: Caption, seed: int) -> None:
        self._series = tuple(styles)
        self._caption = caption
        self._seed = seed
        self._places = [(s, i) for s, one in enumerate(styles) for i in range(len(one.facts))]
        kinds: dict[frozenset[tuple[str, str]], int] = {}
        self.kinds: tuple[int, ...] = tuple(
            kinds.setdefault(frozenset(self.facts(index).items()), len(kinds))
            for index in range(len(self._places))
        )
        """Of each image, a number for its facts."""

    def __len__(self) -> int:
        return len(self._places)

    def facts(self, index: int) -> Facts:
        style, place = self._places[index]
        return self._series[style].facts[place]

    def statement(self, index: int) -> str:
        """All facts of an image."""
        return ", ".join(self.facts(index).values())

    def __getitem__(self, draw: Draw) -> Pair:
        style, place = self._places[draw.index]
        stream = UNCHANGED if draw.epoch is None else draw.epoch + 1
        rng = np.random.default_rng([self._seed, stream, draw.index])
        caption = self._caption(self.facts(draw.index), rng)
        view, light = _as_it_is() if draw.epoch is None else _augmented(rng)
        pixels = torch.from_numpy(np.array(self._series[style].images[place]))
        return Pair(pixels, view, light, caption, self.kinds[draw.index])

    def collate(self, pairs: list[Pair]) -> PairBatch:
        ids = tokenize([pair.caption for pair in pairs])
        return PairBatch(
            torch.stack([_in_colour(pair.pixels) for pair in pairs]),
            torch.stack([pair.view for pair in pairs]),
            torch.stack([pair.light for pair in pairs]),
            ids[:, : int(ids.argmax(dim=1).max()) + 1],  # nothing is read after the end token
            torch.tensor([pair.kind for pair in pairs]),
        )


def _in_colour(pixels: Tensor) -> Tensor:
    """(S, S) or (S, S, 3) -> (3, S, S)."""
    return pixels.expand(3, -1, -1) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _as_it_is() -> tuple[Tensor, Tensor]:
    return torch.eye(2, 3), torch.tensor([1.0, 0.0])


def _augmented(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A view (2, 3) and a light (2,); no mirror image, since captions may tell sides."""
    angle = np.deg2rad(rng.uniform(-MOST_DEGREES, MOST_DEGREES))
    across, along = np.cos(angle) * (scale := rng.uniform(*SCALES)), np.sin(angle) * scale
    right, down = 2 * rng.uniform(-MOST_SHIFT, MOST_SHIFT, 2)
    view = torch.tensor([[across, -along, right], [along, across, down]], dtype=torch.float32)
    gain = 1 + rng.uniform(-MOST_CONTRAST, MOST_CONTRAST)
    offset = rng.uniform(-MOST_BRIGHTNESS, MOST_BRIGHTNESS)
    return view, torch.tensor([gain, offset], dtype=torch.float32)
