import torch

from scanomaly.nn.corruption import coarse_noise


def test_noise_falls_on_tissue_only_and_stays_in_range():
    torch.manual_seed(0)
    image = torch.full((4, 3, 40, 40), 0.5)
    image[:, :, :10] = 0.01
    noisy = coarse_noise(image, 2.0, (4, 8))
    assert torch.equal(noisy[:, :, :10], image[:, :, :10])
    assert noisy.min() == 0
    assert noisy.max() == 1
    assert torch.equal(noisy[:, 0], noisy[:, 1])
    assert all(not torch.equal(a[:, 10:], b[:, 10:]) for a, b in zip(noisy, image, strict=True))


def test_no_strength_is_no_noise():
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(coarse_noise(image, 0.0, (4,)), image)


def test_each_image_draws_its_own_deviation_up_to_the_strength():
    torch.manual_seed(0)
    image = torch.full((200, 3, 64, 64), 0.5)
    deviations = (coarse_noise(image, 0.1, (4, 16)) - image)[:, 0].flatten(1).std(dim=1)
    assert deviations.max() < 0.1
    assert deviations.max() > 4 * deviations.min()


def test_the_grain_is_smooth_over_its_cells():
    torch.manual_seed(0)
    image = torch.full((20, 3, 64, 64), 0.5)
    steps = [
        (coarse_noise(image, 0.1, (cell,)) - image).diff(dim=-1).abs().mean().item()
        for cell in (2, 8, 32)
    ]
    assert steps[0] > 2 * steps[1] > 4 * steps[2]


def test_every_grain_covers_images_of_any_size():
    image = torch.rand(6, 3, 33, 50)
    for cell in (4, 32, 64):
        noisy = coarse_noise(image, 0.5, (cell,))
        assert noisy.shape == image.shape
        assert noisy.isfinite().all()
