"""Frozen networks in whose feature space an image is compared with its reconstruction.

I blocks, V views, B images, H W pixels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scanomaly.backbones.base import Backbone
from scanomaly.maps import geometric_mean, upsample
from scanomaly.nn.distances import Distance


@dataclass(frozen=True, slots=True)
class Views:
    """Which blocks are compared, at which views (patch sizes of a ViT, or sides of a CNN)."""

    blocks: tuple[int, ...]
    keys: tuple[int, ...]
    multiply: str = "views"

    @property
    def positions(self) -> tuple[tuple[int, int], ...]:
        """(view key, block) of each feature map, view by view."""
        return tuple((key, block) for key in self.keys for block in self.blocks)


class PerceptualModel(nn.Module):
    """`networks` maps a view key to a backbone; with `resize`, the key is also the input side."""

    def __init__(
        self,
        networks: Mapping[int, Backbone],
        distance: Distance,
        *,
        resize: bool = False,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({str(key): network for key, network in networks.items()})
        self.distance = distance
        self.resize = resize

    def features(self, image: Tensor, views: Views) -> tuple[Tensor, ...]:
        """Feature maps (B, D, h, w) at `views.positions` of an image (B, 3, H, W) in 0..1."""
        found: list[Tensor] = []
        for key in views.keys:
            network = self.networks[str(key)]
            assert isinstance(network, Backbone)
            seen = upsample(image, (key, key)) if self.resize and key != image.shape[-1] else image
            found.extend(network.extract(seen, views.blocks).maps())
        return tuple(found)

    def compare(
        self, reference: Sequence[Tensor], reconstruction: Sequence[Tensor], views: Views, side: int
    ) -> Tensor:
        """Difference maps (maps, B, 1, side, side) in fp32, products kept out of half precision."""
        with torch.autocast(reference[0].device.type, enabled=False):
            distances = [
                upsample(self.distance(a, b), (side, side))
                for a, b in zip(reference, reconstruction, strict=True)
            ]
            by_view = torch.stack(distances).unflatten(0, (len(views.keys), len(views.blocks)))
            return COMBINATIONS[views.multiply](by_view)


COMBINATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda maps: maps.flatten(0, 1),
    "views": lambda maps: maps.prod(dim=0),
    "views_and_blocks": lambda maps: geometric_mean(maps.flatten(0, 1)),
}
"""(V, I, B, 1, H, W) -> (maps, B, 1, H, W)."""
