"""Pasted places: what is said to have changed has, and nothing else."""

from dataclasses import replace

import pytest
import torch

from scanomaly.config.data import DataConfig, InputSpec
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.foreign import SOURCES, paste
from scanomaly.data.manifest import read_manifest
from scanomaly.data.phantom import write_styles
from scanomaly.errors import ConfigError
from scanomaly.fitting import assign_roles
from scanomaly.presets import preset


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("styles")
    write_styles(folder, ("oct", "tissue"), patients=8, seed=0)
    return folder


def dataset(folder, name: str, pasted: int = 0) -> ImageDataset:
    manifest = read_manifest(folder, name)
    return ImageDataset(manifest, InputSpec(side=96), DataConfig(), pasted=pasted)


@pytest.fixture(scope="module")
def images(styles) -> torch.Tensor:
    sets = [dataset(styles, name) for name in ("Retinal_OCT", "Stained_Tissue")]
    return torch.stack([images[index].image for images in sets for index in range(24)])


def test_what_is_pasted_is_what_has_changed(images):
    torch.manual_seed(0)
    made, changed = paste(images, regions=2)
    assert made.min() >= 0
    assert made.max() <= 1
    difference = (made - images).abs().amax(dim=1, keepdim=True)
    assert difference[changed == 0].max() < 0.1, "only what fades out"
    share = changed.flatten(1).mean(dim=1)
    assert 0.1 < (share == 0).float().mean() < 0.5, "some images stay healthy"
    assert 0 < share.max() < 0.5


def test_a_generator_decides_everything(images):
    first, again, other = (
        paste(images, 2, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_shows_something_else(source, images):
    torch.manual_seed(0)
    made = source(images, torch.rand)
    assert made.shape == images.shape
    differs = (made - images).abs().flatten(1).mean(dim=1)
    assert (differs > 0.01).float().mean() > 0.9


def test_a_grey_image_stays_grey():
    torch.manual_seed(0)
    grey = torch.rand(16, 1, 32, 32).expand(-1, 3, -1, -1)
    made, changed = paste(grey, regions=4)
    assert changed.any()
    for source in SOURCES:
        torch.testing.assert_close(source(grey, torch.rand).std(dim=1), torch.zeros(16, 32, 32))
    torch.testing.assert_close(made.std(dim=1), torch.zeros(16, 32, 32))


def test_pasted_images_stand_behind_the_others(styles):
    plain, more = (dataset(styles, "Stained_Tissue", pasted) for pasted in (0, 2))
    normals = [row for row in plain.rows if row.label is False]
    assert len(more) == len(plain) + 2 * len(normals)
    assert torch.equal(more[0].image, plain[0].image)
    of_one = [more[len(plain) + copy * len(normals)] for copy in (0, 1)]
    for item in of_one:
        assert item.label
        assert item.id == normals[0].id
        own = plain[plain.rows.index(normals[0])].image
        changed = (item.image - own).abs().amax(dim=0, keepdim=True) > 0.04
        assert torch.equal(changed, item.mask)
        assert changed.any()
    assert not torch.equal(of_one[0].image, of_one[1].image)
    assert torch.equal(more[-1].image, more[len(more) - 1].image)
    assert torch.equal(more[-len(more)].image, more[0].image)


def test_sets_with_masks_can_be_left_as_they_are(styles):
    manifest = read_manifest(styles, "Stained_Tissue")
    data = DataConfig(supervision="few_shot", pasted=1, pasted_into="label_only")
    bare = replace(manifest, label_only=frozenset({manifest.dataset}))
    plain, taught = (
        ImageDataset(given, InputSpec(side=96), data, pasted=1) for given in (manifest, bare)
    )
    assert len(plain) == len(manifest)
    assert len(taught) == len(manifest) + len(manifest.normals())


def test_methods_that_learn_from_normal_images_refuse_abnormal_ones(styles):
    run = preset("patchcore-tiny-clip").with_overrides(["data.pasted=1", "data.support=seed:0"])
    with pytest.raises(ConfigError, match=r"data\.pasted=1 makes abnormal images, and anomalib"):
        assign_roles(run, read_manifest(styles, "Stained_Tissue"))
    with pytest.raises(ConfigError, match=r"data.pasted=1 belongs to .*few_shot or zero_shot, got"):
        preset("qfae-offline").with_overrides(["data.pasted=1"])
