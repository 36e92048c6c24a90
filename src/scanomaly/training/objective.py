"""What the gradient loop is asked, and what it answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scanomaly.config.fit import FitOptions, Precision
from scanomaly.records import Draw


class TrainingData(Protocol):
    """What the loop asks of a training set."""

    def __len__(self) -> int: ...
    def __getitem__(self, draw: Draw, /) -> Any: ...
    def collate(self, items: list[Any], /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Criterion:
    """What chooses the checkpoint. name: in words, for reports, such as `best on test`.

    at_last: told when the model holds the last epoch's weights, before the chosen ones replace
    them.
    """

    name: str
    value: Callable[[], float]
    at_last: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class History:
    """What happened: mean training loss of each epoch, validation loss where there was one."""

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    steps: int
    checkpoint: str
    """Which weights were kept: `last epoch`, `best validation loss`, or a criterion's name."""


@dataclass(frozen=True, slots=True)
class OwnOptimisation:
    """How another library's module moves its parameters, in place of the options' optimiser.

    optimisers(total steps): what a LightningModule's configure_optimizers may return. begin: told
    of the Trainer before the first step. steps_itself: the loss takes the optimisers' steps, as
    in Lightning's manual optimisation, and what it returns is only reported.
    """

    optimisers: Callable[[int], Any]
    begin: Callable[[Any], None]
    steps_itself: bool = False


@dataclass(frozen=True, slots=True)
class Objective:
    """What is trained, on what, and towards what.

    model holds the parameters; loss(items of one micro-batch) is its scalar to minimise.
    rates: beginning of a parameter's name -> its own learning rate. criterion: asked after every
    epoch, and the weights with its highest value are kept (published protocols). partial: whether
    a batch may leave some parameters without a gradient. statistics: names of buffers that training
    changes, such as a batch norm's running mean. own: whose optimiser moves the parameters; None:
    the one that the options describe.
    """

    model: nn.Module
    loss: Callable[[Any], Tensor]
    train: TrainingData
    validation: TrainingData | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    criterion: Criterion | None = None
    partial: bool = False
    statistics: tuple[str, ...] = ()
    own: OwnOptimisation | None = None


AUTOCAST: Mapping[Precision, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context of a precision; does nothing in fp32."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def training_device(options: FitOptions) -> torch.device:
    """Where Lightning will put the model of this process."""
    if options.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda")
    if options.accelerator == "mps":
        return torch.device("mps")
    return torch.device("cpu")


def is_main_process() -> bool:
    """False in the processes that Lightning, torchrun or SLURM start for further devices."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return all(rank in (None, "0") for rank in ranks)
