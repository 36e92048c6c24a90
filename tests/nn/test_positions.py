import math

import pytest
import torch
from safetensors.torch import load_file

from golden_parity import assert_parity
from scanomaly.nn.positions import sincos_table, unpatchify


def test_published_tables(golden):
    table = load_file(golden("qfae_sincos.safetensors"))
    assert_parity(sincos_table(16, 3, 3), table["out.dim16_grid3"])
    rows = sincos_table(768, 28, 28)[table["rows"]]
    assert_parity(rows, table["out.dim768_grid28_rows"])


def test_the_column_comes_first_on_a_grid_that_is_not_square():
    table = sincos_table(8, 2, 3)
    for row in range(2):
        for column in range(3):
            expected = [
                function(place / 10000 ** (k / 2))
                for place in (column, row)
                for function in (math.sin, math.cos)
                for k in range(2)
            ]
            torch.testing.assert_close(table[row * 3 + column], torch.tensor(expected))


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        sincos_table(6, 2, 2)


def test_published_patch_order(golden):
    table = load_file(golden("qfae_patchify.safetensors"))
    assert torch.equal(unpatchify(table["out.patches"], 4, (2, 2)), table["in.image"])


def test_patches_of_an_image_that_is_not_square():
    image = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    places = [divmod(patch, 3) for patch in range(6)]
    tiles = [image[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] for r, c in places]
    patches = torch.stack([tile.permute(0, 2, 3, 1).flatten(1) for tile in tiles], dim=1)
    assert torch.equal(unpatchify(patches, 2, (2, 3)), image)
