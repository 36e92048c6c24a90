"""A method whose batches do not always teach all of it, on several processes."""

import pytest
import torch

from methods import partly_masked_fit
from processes import run_script


@pytest.mark.slow
def test_images_without_masks_teach_the_same_on_two_processes(tmp_path):
    """In some steps segmentation learns in one process only, in some in none."""
    expected = partly_masked_fit.fit(tmp_path / "one").fitted_state()
    run_script(partly_masked_fit.__file__, tmp_path / "two", 2)
    found = torch.load(tmp_path / "two" / "state.pt", weights_only=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=2e-6, msg=name)
