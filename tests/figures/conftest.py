"""The detector and images that all figures here are drawn of."""

import pytest
from shown import make_shown

from noise_bench import Bench
from tiny_runs import TinyRun


@pytest.fixture(scope="session")
def bench(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_shown(tiny.run, tmp_path_factory.mktemp("shown") / "Brain")
