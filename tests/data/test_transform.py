import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from scanomaly.config.data import InputSpec
from scanomaly.data.transform import (
    Box,
    Geometry,
    liver_boxes,
    prepare,
    prepare_mask,
    resize_image,
)

RANDOM = np.random.default_rng(1)
COLOUR = RANDOM.integers(0, 256, (40, 28, 3), dtype=np.uint8)


def bilinear(array, size):
    """Slow plain bilinear resize of (h, w): pixel centres at halves, edges repeated."""
    rows, columns = array.shape
    result = np.zeros(size)
    for r in range(size[0]):
        for c in range(size[1]):
            y = min(max((r + 0.5) * rows / size[0] - 0.5, 0), rows - 1)
            x = min(max((c + 0.5) * columns / size[1] - 0.5, 0), columns - 1)
            top, left = int(y), int(x)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = (1 - (x - left)) * array[top, left] + (x - left) * array[top, right]
            lower = (1 - (x - left)) * array[below, left] + (x - left) * array[below, right]
            result[r, c] = (1 - (y - top)) * upper + (y - top) * lower
    return result


def nearest(array, size, offset=0.0):
    """Slow plain nearest resize; offset: where in an output pixel the input is looked up."""
    rows, columns = array.shape
    return np.array(
        [
            [
                array[int((r + offset) * rows / size[0]), int((c + offset) * columns / size[1])]
                for c in range(size[1])
            ]
            for r in range(size[0])
        ]
    )


def test_qfae_path_is_torchvisions():
    published = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize((24, 24), interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
        ]
    )
    image, geometry = prepare(COLOUR, InputSpec(side=24))
    assert torch.equal(image, published(Image.fromarray(COLOUR)).float() / 255)
    assert image.dtype == torch.float32
    assert geometry.size == (40, 28)


def test_uint8_stays_until_the_end():
    resized, _ = resize_image(COLOUR, InputSpec(side=24))
    assert resized.dtype == torch.uint8


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pillow_resize(interpolation):
    spec = InputSpec(side=24, interpolation=interpolation, library="pillow")
    mode = getattr(Image.Resampling, interpolation.upper())
    expected = np.asarray(Image.fromarray(COLOUR).resize((24, 24), mode))
    image, _ = prepare(COLOUR, spec)
    np.testing.assert_array_equal((image * 255).round().permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("library", ["torchvision", "pillow"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_deep_images_agree_with_8_bit_ones(library, interpolation):
    spec = InputSpec(side=24, interpolation=interpolation, library=library)
    middling = COLOUR // 2 + np.uint8(64)  # uint8 is cut between the two passes of a resize
    deep, _ = prepare((middling / 255).astype(np.float32), spec)
    shallow, _ = prepare(middling, spec)
    assert deep.dtype == torch.float32
    torch.testing.assert_close(deep, shallow, atol=1.51 / 255, rtol=0)
    extreme, _ = prepare((COLOUR > 127).astype(np.float32), spec)
    assert float(extreme.min()) >= 0
    assert float(extreme.max()) <= 1


def test_untouched_at_its_own_side():
    square = COLOUR[:24, :24]
    image, _ = prepare(square, InputSpec(side=24))
    np.testing.assert_array_equal((image * 255).round().permute(1, 2, 0).numpy(), square)


def test_all_black_stays_finite():
    for preprocess in ("none", "liver_roi"):
        image, geometry = prepare(np.zeros((30, 30, 3), np.uint8), InputSpec(side=24), preprocess)
        assert torch.equal(image, torch.zeros(3, 24, 24))
        back = geometry.to_input_grid(np.ones((24, 24)))
        assert back.shape == (30, 30)
        assert np.isfinite(back).all()


def test_maps_return_to_the_input_grid():
    _, geometry = prepare(COLOUR, InputSpec(side=8))
    array = RANDOM.random((8, 8))
    back = geometry.to_input_grid(array)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, bilinear(array, (40, 28)), atol=1e-6)
    coloured = geometry.to_input_grid(np.dstack([array, array, 1 - array]))
    np.testing.assert_allclose(coloured[..., 0], back)
    np.testing.assert_allclose(coloured[..., 2], 1 - back, atol=1e-6)


def test_map_of_another_side():
    _, geometry = prepare(COLOUR, InputSpec(side=8))
    with pytest.raises(ValueError, match=r"expected a map \(8, 8\)"):
        geometry.to_input_grid(np.zeros((9, 9)))


@pytest.mark.parametrize(("library", "offset"), [("torchvision", 0.0), ("pillow", 0.5)])
@pytest.mark.parametrize("side", [24, 96])
def test_masks_take_the_nearest_as_the_library_counts(library, offset, side):
    spec = InputSpec(side=side, library=library)
    _, geometry = prepare(COLOUR, spec)
    mask = RANDOM.random((40, 28)) > 0.7
    moved = prepare_mask(mask, geometry, spec)
    assert moved.dtype == torch.bool
    assert moved.shape == (1, side, side)
    np.testing.assert_array_equal(moved[0].numpy(), nearest(mask, (side, side), offset))
    with pytest.raises(ValueError, match=r"size \(40, 28\), got \(28, 40\)"):
        prepare_mask(mask.T, geometry, spec)


def test_masks_of_mvfa_and_iqe_clip_are_resized_as_published():
    """Source: spec mvfa section 1: Pillow, mode L, nearest."""
    spec = InputSpec(side=240, interpolation="bicubic", library="pillow")
    mask = RANDOM.random((512, 300)) > 0.5
    _, geometry = prepare(np.zeros((512, 300, 3), np.uint8), spec)
    published = Image.fromarray(mask.astype(np.uint8) * 255).resize((240, 240), 0)
    moved = prepare_mask(mask, geometry, spec)[0].numpy()
    np.testing.assert_array_equal(moved, np.asarray(published) > 127)


@pytest.fixture(scope="module")
def liver(golden):
    with np.load(golden("qfae_liver.npz")) as data:
        return dict(data)


@pytest.mark.parametrize("name", ["fits", "wide", "tall_odd", "empty"])
def test_liver_golden(liver, name):
    grey = liver[f"in.{name}"]
    image, geometry = prepare(
        np.repeat(grey[..., None], 3, axis=2), InputSpec(side=224), "liver_roi"
    )
    difference = (image[0] * 255).round().numpy() - liver[f"out.{name}"].astype(float)
    assert np.abs(difference).max() <= 1
    assert torch.equal(image[0], image[2])
    if name != "empty":
        box = geometry.source
        assert (box.left, box.top, box.width, box.height) == tuple(liver[f"bbox_xywh.{name}"])


def test_liver_mask_and_map_follow_the_image(liver):
    """A mask that is the organ itself lands on the organ, and its map comes back to it."""
    for name in ("fits", "wide", "tall_odd"):
        grey = liver[f"in.{name}"]
        organ = np.zeros(grey.shape, dtype=np.bool_)
        source, target = liver_boxes(grey)
        organ[source.slices] = True
        for side in (224, 112):
            spec = InputSpec(side=side)
            _, geometry = prepare(np.repeat(grey[..., None], 3, axis=2), spec, "liver_roi")
            moved = prepare_mask(organ, geometry, spec)[0].numpy()
            scale = side / 224
            assert moved.sum() == pytest.approx(target.height * target.width * scale**2, rel=0.03)
            back = geometry.to_input_grid(moved.astype(np.float32))
            assert back.shape == grey.shape
            assert back[~organ].max() == 0
            assert back[organ].mean() > 0.97


def test_liver_mask_without_scaling_is_a_shift():
    grey = np.zeros((60, 50), dtype=np.uint8)
    grey[10:31, 20:33] = 9
    spec = InputSpec(side=224)
    _, geometry = prepare(np.repeat(grey[..., None], 3, 2), spec, "liver_roi")
    assert geometry == Geometry(
        size=(60, 50),
        side=224,
        source=Box(10, 20, 21, 13),
        canvas=224,
        target=Box(101, 105, 21, 13),
    )
    mask = np.zeros((60, 50), dtype=np.bool_)
    mask[12, 25] = True
    mask[0, 0] = True
    assert prepare_mask(mask, geometry, spec).nonzero().tolist() == [[0, 103, 110]]
    spot = np.zeros((224, 224), dtype=np.float32)
    spot[103, 110] = spot[0, 0] = 1
    assert np.argwhere(geometry.to_input_grid(spot)).tolist() == [[12, 25]]


def test_liver_sliver_keeps_a_pixel():
    grey = np.zeros((1000, 20), dtype=np.uint8)
    grey[:, 5] = 9
    assert liver_boxes(grey)[1] == Box(0, 111, 224, 1)


def test_liver_of_a_coloured_image_takes_its_luminance():
    colour = np.zeros((60, 50, 3), dtype=np.uint8)
    colour[10:31, 20:33] = (200, 100, 50)
    image, _ = prepare(colour, InputSpec(side=224), "liver_roi")
    expected = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert float(image[:, 112, 112].max()) * 255 == pytest.approx(expected)
    assert torch.equal(image[0], image[2])


def test_liver_of_a_deep_image():
    deep = np.zeros((60, 50, 3), dtype=np.float32)
    deep[10:31, 20:33] = 0.5
    image, _ = prepare(deep, InputSpec(side=224), "liver_roi")
    assert float(image.max()) == pytest.approx(128 / 255)
