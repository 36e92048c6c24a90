from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from scanomaly.backbones.resample import resample_kernel, resample_positions

Golden = Callable[[str], Path]


@pytest.mark.parametrize("patch", [8, 32, 56])
def test_kernel_matches_the_published_resampling(golden: Golden, patch: int) -> None:
    table = load_file(golden("qfae_resample.safetensors"))
    kernel = resample_kernel(table["in.kernel16"], (patch, patch))
    torch.testing.assert_close(kernel, table[f"out.kernel{patch}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [28, 7, 4])
def test_positions_match_the_published_resampling(golden: Golden, side: int) -> None:
    table = load_file(golden("qfae_resample.safetensors"))
    positions = resample_positions(table["in.pos14"], (14, 14), (side, side))
    torch.testing.assert_close(positions, table[f"out.pos{side}"], rtol=0, atol=1e-5)


def test_positions_without_prefix_match(golden: Golden) -> None:
    table = load_file(golden("qfae_resample.safetensors"))
    positions = resample_positions(table["in.pos37_noprefix"], (37, 37), (16, 16))
    torch.testing.assert_close(positions, table["out.pos16_noprefix"], rtol=0, atol=1e-5)


def test_a_larger_kernel_answers_a_resized_patch_as_the_old_one_answered_the_patch() -> None:
    kernel, patch = torch.randn(5, 3, 8, 8), torch.randn(1, 3, 8, 8)
    larger = F.interpolate(patch, size=(16, 16), mode="bicubic", antialias=True)
    before = (kernel * patch).sum((1, 2, 3))
    after = (resample_kernel(kernel, (16, 16)) * larger).sum((1, 2, 3))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_the_same_size_changes_nothing() -> None:
    kernel, positions = torch.randn(2, 3, 8, 8), torch.randn(1, 17, 4)
    assert resample_kernel(kernel, (8, 8)) is kernel
    assert resample_positions(positions, (4, 4), (4, 4)) is positions


def test_precision_is_kept() -> None:
    kernel = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)
    positions = torch.randn(1, 17, 4, dtype=torch.bfloat16)
    assert resample_kernel(kernel, (4, 4)).dtype == torch.bfloat16
    assert resample_positions(positions, (4, 4), (2, 2)).dtype == torch.bfloat16


def test_a_table_too_small_for_its_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="15 positions cannot cover a grid"):
        resample_positions(torch.randn(1, 15, 4), (4, 4), (2, 2))
