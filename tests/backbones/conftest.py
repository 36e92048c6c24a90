from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny_networks import make_network, save_folder


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """Save a tiny network of that name; the folder that holds it."""

    def save(name: str) -> Path:
        return save_folder(make_network(name), name, tmp_path / "weights" / name)

    return save


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No weights of this machine's user and no network reach a test."""
    import huggingface_hub.constants

    monkeypatch.delenv("SCANOMALY_WEIGHTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)
