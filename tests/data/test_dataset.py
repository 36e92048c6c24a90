import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from scanomaly.config.data import DataConfig, InputSpec
from scanomaly.config.fit import FitOptions
from scanomaly.data.copies import MVFA_COPIES
from scanomaly.data.dataset import ImageDataset, collate
from scanomaly.data.manifest import read_manifest
from scanomaly.errors import DataError
from scanomaly.records import Draw
from scanomaly.training.sampling import EpochSampler, MicroBatches, as_it_is

SPEC = InputSpec(side=32)
NAMES = [
    "train/good/img/1_1.png",
    "train/good/img/1_2.png",
    "train/good/img/2_1.png",
    "test/good/img/3_1.png",
    "test/Ungood/img/4_1.png",
    "test/Ungood/img/5_1.png",
    "test/Ungood/label/4_1.png",
]


@pytest.fixture
def manifest(build, save):
    root = build("Brain", NAMES)
    truth = np.zeros((16, 16), dtype=np.uint8)
    truth[:8] = 60
    save("Brain/test/Ungood/label/4_1.png", truth)
    return read_manifest(root)


def test_items_of_the_test_split(manifest):
    test = ImageDataset(manifest.split("test"), SPEC, DataConfig())
    unmasked, masked, good = sorted(test, key=lambda item: (item.mask is not None, item.id))
    assert (good.id, good.label) == ("test/good/img/3_1", False)
    assert good.mask is not None
    assert not good.mask.any()
    assert masked.mask is not None
    assert masked.mask[0, :16].all()
    assert not masked.mask[0, 16:].any()
    assert (unmasked.id, unmasked.label, unmasked.mask) == ("test/Ungood/img/5_1", True, None)
    for item in (good, masked, unmasked):
        assert item.image.shape == (3, 32, 32)
        assert item.image.dtype == torch.float32
        assert item.geometry.size == (16, 16)


def test_batches(manifest):
    items = {row.label: item for row, item in zip(manifest, map_items(manifest), strict=True)}
    unmasked, good = items[True], items[False]
    batch = collate([good, good])
    assert batch.ids == (good.id, good.id)
    assert batch.label is not None
    assert batch.label.tolist() == [False, False]
    assert batch.mask is not None
    assert batch.has_mask is not None
    assert batch.has_mask.tolist() == [True, True]
    assert batch.datasets == ("Brain", "Brain")
    mixed = collate([good, unmasked])
    assert mixed.label is not None
    assert mixed.label.tolist() == [False, True]


def test_images_without_a_mask_among_others(manifest):
    test = ImageDataset(manifest.split("test"), SPEC, DataConfig())
    unmasked, masked, good = sorted(test, key=lambda item: (item.mask is not None, item.id))
    batch = collate([masked, unmasked, good])
    assert batch.has_mask is not None
    assert batch.has_mask.tolist() == [True, False, True]
    assert batch.mask is not None
    assert batch.mask.dtype == torch.bool
    assert torch.equal(batch.mask[0], masked.mask)
    assert not batch.mask[1:].any()
    alone = collate([unmasked])
    assert (alone.mask, alone.has_mask) == (None, None)


def test_data_sets_are_known_of_all_or_of_none(manifest):
    items = map_items(manifest)[:2]
    nameless = dataclasses.replace(items[0], dataset="")
    assert collate(items).datasets == ("Brain", "Brain")
    assert collate([nameless, items[1]]).datasets == ()


def test_normal_images_of_a_label_only_set_have_no_mask(manifest):
    labels = dataclasses.replace(manifest, label_only=frozenset({"Brain"}))
    known = {item.id for item in map_items(labels) if item.mask is not None}
    assert known == {row.id for row in manifest if row.mask}
    others = dataclasses.replace(manifest, label_only=frozenset({"Chest"}))
    assert sum(item.mask is not None for item in map_items(others)) == 5


def map_items(manifest):
    dataset = ImageDataset(manifest, SPEC, DataConfig(), with_masks=True)
    return [dataset[index] for index in range(len(dataset))]


def test_unlabelled_images(build):
    (item,) = map_items(read_manifest(build("scans", ["x.png"])))
    batch = collate([item])
    assert batch.label is None
    assert batch.mask is None


def test_masks_can_stay_unread(manifest, save):
    save("Brain/test/Ungood/label/4_1.png", np.zeros((9, 9), dtype=np.uint8))
    test = manifest.split("test")
    assert all(
        item.mask is None for item in ImageDataset(test, SPEC, DataConfig(), with_masks=False)
    )
    with pytest.raises(DataError, match=r"label/4_1\.png.* 9x9 .*img/4_1\.png has 16x16"):
        list(ImageDataset(test, SPEC, DataConfig()))


def test_only_draws_are_augmented(manifest):
    plain = ImageDataset(manifest, SPEC, DataConfig())
    augmented = ImageDataset(manifest, SPEC, DataConfig(augmentation="qfae"), seed=1)
    assert torch.equal(augmented[0].image, plain[0].image)
    assert torch.equal(plain[Draw(3, 0)].image, plain[0].image)
    drawn = augmented[Draw(3, 0)].image
    assert not torch.equal(drawn, plain[0].image)
    assert torch.equal(drawn, augmented[Draw(3, 0)].image)
    assert not torch.equal(drawn, augmented[Draw(4, 0)].image)
    other = ImageDataset(manifest, SPEC, DataConfig(augmentation="qfae"), seed=2)
    assert not torch.equal(drawn, other[Draw(3, 0)].image)


def test_augmented_image_leaves_its_mask_behind(manifest):
    dataset = ImageDataset(manifest, SPEC, DataConfig(augmentation="qfae"))
    index = next(i for i, row in enumerate(manifest) if row.mask)
    assert dataset[index].mask is not None
    assert dataset[Draw(0, index)].mask is None


def test_copies(manifest):
    rows = len(manifest)
    plain = ImageDataset(manifest, SPEC, DataConfig())
    dataset = ImageDataset(manifest, SPEC, DataConfig(), copies="mvfa")
    assert len(dataset) == 11 * rows
    items = list(dataset)
    assert [item.id for item in items] == 11 * [row.id for row in manifest]
    for index, item in enumerate(items):
        copy, row = MVFA_COPIES[index // rows], index % rows
        assert torch.equal(item.image, copy(plain[row].image))
        drawn = dataset[Draw(5, index)]
        assert torch.equal(drawn.image, item.image)
        original = plain[row].mask
        if original is None:
            assert item.mask is None
        else:
            assert torch.equal(item.mask, copy(original.float()) > 0.5)
            assert torch.equal(drawn.mask, item.mask)
    changed = [item for item in items if item.mask is not None and item.mask.any()]
    assert len(changed) == 11
    assert len({item.mask.numpy().tobytes() for item in changed}) > 5
    with pytest.raises(IndexError):
        dataset[11 * rows]
    assert list(ImageDataset(manifest.split("valid"), SPEC, DataConfig(), copies="mvfa")) == []


def test_copies_and_augmentation_exclude_each_other():
    with pytest.raises(ValueError, match=r"data\.copies=mvfa .* data\.augmentation=qfae"):
        DataConfig(copies="mvfa", augmentation="qfae")


def test_workers_change_nothing(manifest):
    dataset = ImageDataset(manifest, SPEC, DataConfig(augmentation="qfae"), seed=1)

    def epoch(workers: int) -> torch.Tensor:
        sampler = EpochSampler(len(dataset), FitOptions(batch_size=3, seed=1), epoch=2)
        loader = DataLoader(
            MicroBatches(dataset),
            batch_size=None,
            sampler=sampler,
            collate_fn=as_it_is,
            num_workers=workers,
        )
        return torch.cat([batch.image for batch in loader])

    assert torch.equal(epoch(0), epoch(2))


def test_deep_images_go_through_the_window(save):
    path = save("set/x.png", (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16))
    manifest = read_manifest(path.parent)
    (item,) = ImageDataset(manifest, InputSpec(side=16), DataConfig(window=(0.0, 4080.0)))
    torch.testing.assert_close(item.image[1].flatten(), torch.arange(256) / 255)
    with pytest.raises(DataError, match=r"x\.png: has .* intensities"):
        ImageDataset(manifest, SPEC, DataConfig())[0]
