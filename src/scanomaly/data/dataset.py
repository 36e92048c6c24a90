"""Images of a manifest as a torch data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from scanomaly.config.data import DataConfig, InputSpec
from scanomaly.data.augment import AUGMENTATIONS, seeded
from scanomaly.data.copies import COPIES, copy_mask
from scanomaly.data.foreign import paste
from scanomaly.data.images import read_image, read_mask
from scanomaly.data.manifest import Manifest, Row
from scanomaly.data.transform import Geometry, prepare_mask, resize_image, to_unit
from scanomaly.records import Batch, Draw

FOREIGN_REGIONS = 2
"""At most, in one image."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image on its way into a batch.

    image: float (3, S, S) in 0..1. mask: bool (1, S, S); None when unknown or no longer in place.
    geometry: of the image itself, whichever copy this is. dataset: "" when unknown.
    """

    image: Tensor
    id: str
    label: bool | None
    mask: Tensor | None
    geometry: Geometry
    dataset: str = ""


class ImageDataset(Dataset[Item]):
    """Decodes, resizes and, for a Draw of an epoch, augments; a plain index is never augmented.

    with_masks=False leaves mask files unread, where nobody looks at `Batch.mask`. copies: a name in
    COPIES; item `copy * rows + row` is that copy of the row, under the row's own id. Behind them
    come `pasted` abnormal images made of each normal one that data.pasted_into names, the same in
    every epoch.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: InputSpec,
        data: DataConfig,
        seed: int = 0,
        *,
        with_masks: bool = True,
        copies: str = "none",
        pasted: int = 0,
    ) -> None:
        self.rows = manifest.rows
        self.label_only = manifest.label_only
        self.spec = spec
        self.data = data
        self.seed = seed
        self.with_masks = with_masks
        self._augment = AUGMENTATIONS[data.augmentation]
        self._copies = COPIES[copies]
        self._normals = [place for place, row in enumerate(self.rows) if self._takes_pasted(row)]
        self._pasted = pasted

    def __len__(self) -> int:
        return len(self.rows) * len(self._copies) + len(self._normals) * self._pasted

    def __getitem__(self, draw: Draw | int) -> Item:
        index = draw.index if isinstance(draw, Draw) else draw
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        own = len(self.rows) * len(self._copies)
        if index >= own:
            return self._with_foreign_places(index - own)
        which, place = divmod(index, len(self.rows))
        row, copy = self.rows[place], self._copies[which]
        pixels = read_image(row.path, self.data.window)
        image, geometry = resize_image(pixels, self.spec, self.data.preprocess)
        augments = self.data.augmentation != "none"
        epoch = draw.epoch if augments and isinstance(draw, Draw) else None
        if epoch is not None:
            image = self._augment(image, seeded(self.seed, epoch, index))
        mask = self._mask(row, geometry, epoch is not None) if self.with_masks else None
        mask = None if mask is None else copy_mask(copy, mask)
        return Item(copy(to_unit(image)), row.id, row.label, mask, geometry, row.dataset)

    def _takes_pasted(self, row: Row) -> bool:
        masked = row.dataset not in self.label_only
        return row.label is False and self.data.pastes_into(masked=masked)

    def _with_foreign_places(self, number: int) -> Item:
        """A normal image with places of itself and of another one where they do not belong."""
        draws = seeded(self.seed, number)
        other = int(torch.randint(len(self._normals), (), generator=draws))
        item, another = (
            self[self._normals[place]] for place in (number % len(self._normals), other)
        )
        both = torch.stack([item.image, another.image])
        changed = torch.zeros(1)
        while not changed.any():  # until there is one
            images, found = paste(both, FOREIGN_REGIONS, draws)
            image, changed = images[0], found[0]
        return replace(item, image=image, label=True, mask=changed.bool())

    def collate(self, items: Sequence[Item]) -> Batch:
        return collate(items)

    def _mask(self, row: Row, geometry: Geometry, moved: bool) -> Tensor | None:
        """Zeros for a normal image without a file; None when unknown, or left behind by a crop.

        Nor has a normal image of a label-only set a mask.
        """
        if row.mask is None:
            blank = torch.zeros(1, geometry.side, geometry.side, dtype=torch.bool)
            return blank if row.label is False and row.dataset not in self.label_only else None
        if moved:
            return None
        return prepare_mask(read_mask(row.mask, geometry.size, row.path), geometry, self.spec)


def collate(items: Sequence[Item]) -> Batch:
    """Items to a Batch; as soon as one item does not know its label, or its data set, none is told.

    Images without a mask are False in `has_mask`; when no image has one both are None. Metrics on
    mixed sets read each row's mask themselves and so keep apart "none" and "unknown".
    """
    labels = [item.label for item in items if item.label is not None]
    names = tuple(item.dataset for item in items)
    mask, has_mask = _masks(items)
    return Batch(
        image=torch.stack([item.image for item in items]),
        ids=tuple(item.id for item in items),
        label=torch.tensor(labels) if len(labels) == len(items) else None,
        mask=mask,
        has_mask=has_mask,
        datasets=names if all(names) else (),
    )


def _masks(items: Sequence[Item]) -> tuple[Tensor | None, Tensor | None]:
    """(bool (B, 1, S, S), which of them are known (B,)); (None, None) when none is."""
    known = [item.mask is not None for item in items]
    if not any(known):
        return None, None
    blank = torch.zeros(1, *items[0].image.shape[1:], dtype=torch.bool)
    masks = [blank if item.mask is None else item.mask for item in items]
    return torch.stack(masks), torch.tensor(known)
