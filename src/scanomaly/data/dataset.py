"""Images of a manifest as a torch data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from scanomaly.config.data import DataConfig, InputSpec
from scanomaly.data.augment import AUGMENTATIONS, seeded
from scanomaly.data.images import read_image, read_mask
from scanomaly.data.manifest import Manifest, Row
from scanomaly.data.transform import Geometry, prepare_mask, resize_image, to_unit
from scanomaly.records import Batch, Draw


@dataclass(frozen=True, slots=True)
class Item:
    """One image on its way into a batch.

    image: float (3, S, S) in 0..1. mask: bool (1, S, S); None when unknown or no longer in place.
    """

    image: Tensor
    id: str
    label: bool | None
    mask: Tensor | None
    geometry: Geometry


class ImageDataset(Dataset[Item]):
    """Decodes, resizes and, for a Draw of an epoch, augments; a plain index is never augmented.

    with_masks=False leaves mask files unread, where nobody looks at `Batch.mask`.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: InputSpec,
        data: DataConfig,
        seed: int = 0,
        *,
        with_masks: bool = True,
    ) -> None:
        self.rows = manifest.rows
        self.spec = spec
        self.data = data
        self.seed = seed
        self.with_masks = with_masks
        self._augment = AUGMENTATIONS[data.augmentation]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw | int) -> Item:
        index = draw.index if isinstance(draw, Draw) else draw
        row = self.rows[index]
        pixels = read_image(row.path, self.data.window)
        image, geometry = resize_image(pixels, self.spec, self.data.preprocess)
        epoch = draw.epoch if isinstance(draw, Draw) else -1
        moved = epoch >= 0 and self.data.augmentation != "none"
        if moved:
            image = self._augment(image, seeded(self.seed, epoch, index))
        mask = self._mask(row, geometry, moved) if self.with_masks else None
        return Item(to_unit(image), row.id, row.label, mask, geometry)

    def collate(self, items: Sequence[Item]) -> Batch:
        return collate(items)

    def _mask(self, row: Row, geometry: Geometry, moved: bool) -> Tensor | None:
        """Zeros for a normal image without a file; None when unknown, or left behind by a crop."""
        if row.mask is None:
            blank = torch.zeros(1, geometry.side, geometry.side, dtype=torch.bool)
            return blank if row.label is False else None
        if moved:
            return None
        return prepare_mask(read_mask(row.mask, geometry.size, row.path), geometry)


def collate(items: Sequence[Item]) -> Batch:
    """Items to a Batch; `label` and `mask` are None as soon as one item does not know its own.

    Metrics on mixed sets read each row's mask themselves and so keep apart "none" and "unknown".
    """
    labels = [item.label for item in items if item.label is not None]
    masks = [item.mask for item in items if item.mask is not None]
    return Batch(
        image=torch.stack([item.image for item in items]),
        ids=tuple(item.id for item in items),
        label=torch.tensor(labels) if len(labels) == len(items) else None,
        mask=torch.stack(masks) if len(masks) == len(items) else None,
    )
