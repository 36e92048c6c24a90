"""A small regression for the gradient loop; also a script, for runs with several processes.

    python tiny_objective.py RUN_DIR DEVICES

fits it on that many CPU processes and saves the weights in RUN_DIR/weights.pt.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from scanomaly.config.fit import FitOptions
from scanomaly.records import Draw
from scanomaly.training import History, Objective, is_main_process, optimise

OPTIONS = FitOptions(
    epochs=4, batch_size=8, learning_rate=1e-2, warm_up=0.3, seed=5, accelerator="cpu"
)
COUNT = 27
"""Three steps an epoch; three images are dropped."""
Pair = tuple[Tensor, Tensor]


class Pairs:
    """Inputs and targets; the epoch of a draw shifts the input, as an augmentation would."""

    def __init__(self, count: int = COUNT, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(count, 4, generator=generator)
        self.targets = self.inputs.square().sum(dim=1, keepdim=True).sin()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, draw: Draw) -> Pair:
        shift = 0.1 * (draw.epoch or 0)
        return self.inputs[draw.index] + shift, self.targets[draw.index]

    def collate(self, items: list[Pair]) -> Pair:
        inputs, targets = zip(*items, strict=True)
        return torch.stack(inputs), torch.stack(targets)


def network(dropout: float = 0.0) -> nn.Module:
    """Frozen first layer, a buffer, and trainable layers; smooth, so that rounding stays small."""
    torch.manual_seed(1)
    frozen = nn.Linear(4, 16).requires_grad_(False)
    return nn.Sequential(
        frozen, nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1)
    )


def squared_error(model: nn.Module) -> Callable[[Pair], Tensor]:
    def loss(items: Pair) -> Tensor:
        inputs, targets = items
        return (model(inputs) - targets).square().mean()

    return loss


def fit(run_dir: Path, options: FitOptions = OPTIONS) -> tuple[nn.Module, History]:
    """A new network after an undisturbed run."""
    model = network()
    history = optimise(Objective(model, squared_error(model), Pairs()), options, run_dir)
    return model, history


def main(run_dir: Path, devices: int) -> None:
    model, history = fit(run_dir, OPTIONS.model_copy(update={"devices": devices}))
    if is_main_process():
        torch.save(model.state_dict(), run_dir / "weights.pt")
        (run_dir / "train_loss.json").write_text(json.dumps(history.train_loss))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
