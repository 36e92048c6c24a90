import pytest
import torch
from torchvision.transforms import v2

from scanomaly.data.augment import (
    AUGMENTATIONS,
    CROP_RATIO,
    CROP_SCALE,
    augment_qfae,
    draw_crop,
    seeded,
)


def noise(dtype=torch.uint8):
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=seeded(0))
    return image if dtype == torch.uint8 else image / 255


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_same_seed_same_image(dtype):
    image = noise(dtype)
    before = image.clone()
    first = augment_qfae(image, seeded(1, 2, 3))
    assert first.dtype == dtype
    assert first.shape == image.shape
    assert torch.equal(first, augment_qfae(image, seeded(1, 2, 3)))
    assert torch.equal(image, before)
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2)):
        assert not torch.equal(first, augment_qfae(image, seeded(*other)))


def test_global_randomness_is_untouched():
    state = torch.get_rng_state()
    augment_qfae(noise(), seeded(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_float_and_uint8_see_the_same_augmentation():
    for seed in range(5):
        shallow = augment_qfae(noise(), seeded(seed)).float() / 255
        deep = augment_qfae(noise(torch.float32), seeded(seed))
        assert 0 <= float(deep.min()) <= float(deep.max()) <= 1
        torch.testing.assert_close(shallow, deep, atol=3 / 255, rtol=0)


def test_crops_are_distributed_as_torchvisions():
    generator = seeded(7)
    ours = torch.tensor([draw_crop(100, 100, generator) for _ in range(3000)]).float()
    reference = v2.RandomResizedCrop(100, scale=CROP_SCALE, ratio=CROP_RATIO)
    torch.manual_seed(0)
    image = torch.zeros(3, 100, 100)
    keys = ("top", "left", "height", "width")
    drawn = [reference.make_params([image]) for _ in range(3000)]
    theirs = torch.tensor([[params[key] for key in keys] for params in drawn]).float()
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.2, rtol=0)
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0.2, rtol=0)
    areas, ratios = ours[:, 2] * ours[:, 3] / 1e4, ours[:, 3] / ours[:, 2]
    assert areas.min() > 0.88
    assert areas.max() <= 1
    assert ratios.min() > 0.78
    assert ratios.max() < 1.23


def test_half_are_flipped():
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :16] = 200
    flipped = [
        augment_qfae(image, seeded(seed))[:, 20:].float().mean() > 100 for seed in range(300)
    ]
    assert 0.4 < sum(flipped) / 300 < 0.6


def test_rotation_is_small_and_fills_with_black():
    image = torch.full((3, 64, 64), 200, dtype=torch.uint8)
    black = [float((augment_qfae(image, seeded(seed)) == 0).float().mean()) for seed in range(100)]
    # A square turned by 10 degrees leaves about 7 % of its frame empty.
    assert 0.05 < max(black) < 0.085
    assert min(black) < 0.01


def test_brightness_and_contrast_stay_within_a_tenth():
    image = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    centre = [float(augment_qfae(image, seeded(seed))[0, 16, 16]) for seed in range(200)]
    # Contrast moves grey towards the mean, which the black corners lower.
    assert 178 <= min(centre) < 190
    assert 210 < max(centre) <= 223


def test_order_of_brightness_and_contrast_varies(monkeypatch):
    from scanomaly.data import augment

    calls = []
    names = ("adjust_brightness", "adjust_contrast")
    for name in names:
        monkeypatch.setattr(
            augment.tv, name, lambda image, factor, name=name: calls.append(name) or image
        )
    for seed in range(60):
        augment_qfae(noise(), seeded(seed))
    first = calls[::2].count(names[0])
    assert 15 < first < 45
    assert calls.count(names[0]) == calls.count(names[1]) == 60


def test_none_keeps_the_image():
    image = noise()
    assert AUGMENTATIONS["none"](image, seeded(1)) is image
