import pytest
import torch
from safetensors.torch import load_file

from golden_parity import assert_parity
from scanomaly.data.copies import COPIES, MVFA_COPIES, copy_mask, rotated, shifted


def test_the_published_eleven(golden):
    table = load_file(golden("mvfa_augment.safetensors"))
    for kind in ("image", "mask"):
        blocks = [torch.stack([copy(one) for one in table[f"in.{kind}"]]) for copy in MVFA_COPIES]
        assert_parity(torch.cat(blocks), table[f"out.{kind}"])


def test_masks_are_moved_and_cut_at_one_half(golden):
    table = load_file(golden("mvfa_augment.safetensors"))
    mask = table["in.mask"][0] > 0.5
    assert 0 < mask.sum() < mask.numel()
    for copy in MVFA_COPIES:
        moved = copy_mask(copy, mask)
        assert moved.dtype == torch.bool
        assert torch.equal(moved, copy(mask.float()) > 0.5)
        assert torch.equal(copy_mask(copy, torch.zeros_like(mask)), torch.zeros_like(mask))
    assert torch.equal(copy_mask(MVFA_COPIES[0], mask), mask)


def test_shifts_are_whole_pixels_where_a_tenth_of_half_the_side_is():
    image = torch.rand(3, 40, 40)
    moved = shifted(0.1, -0.1)(image)
    torch.testing.assert_close(moved[:, 2:, :-2], image[:, :-2, 2:])
    torch.testing.assert_close(moved[:, :2], moved[:, 2:4].flip(1))


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_quarter_turns_are_exact(quarter):
    image = torch.rand(1, 9, 9, dtype=torch.float64)
    turned = rotated(quarter * torch.pi / 2)(image)
    torch.testing.assert_close(turned, image.rot90(quarter, (1, 2)), atol=1e-12, rtol=0)


def test_every_choice_begins_with_the_image_itself():
    image = torch.rand(3, 8, 8)
    assert {name: len(copies) for name, copies in COPIES.items()} == {"none": 1, "mvfa": 11}
    for copies in COPIES.values():
        assert copies[0](image) is image
