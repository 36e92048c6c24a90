"""How often the right caption, or the right image, is the nearest among held-out pairs.

E width of features
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scanomaly.pretraining.contrastive import Contrast
from scanomaly.pretraining.pairs import Pairs
from scanomaly.records import Draw

BATCH, BATCHES = 64, 50
AT_ONCE = 32


class Retrieval(NamedTuple):
    """Top-1 shares over batches of `size` pairs, each of other facts; captions say all facts."""

    image_to_text: float
    text_to_image: float
    size: int
    kinds: int
    """How many different facts there are among the held-out images."""


@torch.no_grad()
def retrieval(contrast: Contrast, pairs: Pairs, seed: int) -> Retrieval:
    """Of the network in eval mode, on images that are not augmented.

    Captions as in training leave facts out, so that no network could tell some of them apart.
    """
    contrast.network.eval()
    images, texts = _features(contrast, pairs)
    places: dict[int, list[int]] = defaultdict(list)
    for index, kind in enumerate(pairs.kinds):
        places[kind].append(index)
    rng = np.random.default_rng(seed)
    size = min(BATCH, len(places))
    found = torch.zeros(2)
    for _ in range(BATCHES):
        kinds = rng.permutation(len(places))[:size]
        chosen = [int(rng.choice(places[int(kind)])) for kind in kinds]
        cosines = images[chosen] @ texts[chosen].T  # (size, size)
        right = torch.arange(size)
        found += torch.stack(
            [(scores.argmax(dim=1) == right).float().mean() for scores in (cosines, cosines.T)]
        )
    forth, back = (found / BATCHES).tolist()
    return Retrieval(forth, back, size, len(places))


def _features(contrast: Contrast, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Unit features of images and captions, (pairs, E) each, on the CPU."""
    device = contrast.network.logit_scale.device
    found = []
    for start in range(0, len(pairs), AT_ONCE):
        draws = [Draw(None, i) for i in range(start, min(start + AT_ONCE, len(pairs)))]
        stated = [pairs[draw]._replace(caption=pairs.statement(draw.index)) for draw in draws]
        batch = pairs.collate(stated).to(device)
        both = (
            contrast.image_features(batch.images(contrast.side)),
            contrast.text_features(batch.ids),
        )
        found.append([features.cpu() for features in both])
    images, texts = zip(*found, strict=True)
    return torch.cat(images), torch.cat(texts)
