"""Frozen feature extractors behind one interface."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from scanomaly.config.backbones import BackboneConfig
from scanomaly.records import Features

TokenHook = Callable[[int, Tensor], Tensor]
"""(block index, tokens) -> the tokens handed to the next block."""


class FrozenNetwork(nn.Module, ABC):
    """Always in eval mode, no parameter gradients; gradients may still flow through it.

    Holds a network of a library as a submodule; what a subclass registers on itself, such as an
    image's mean and std, stays in fp32 whatever `cast` does.
    """

    config: BackboneConfig | None
    """What this was built from; None if its parts were given."""

    def __init__(self) -> None:
        super().__init__()
        self.config = None
        self._cast: torch.dtype | None = None
        self._fingerprint: str | None = None

    @classmethod
    @abstractmethod
    def build(cls, config: Any) -> Self:
        """Raises WeightsError or ConfigError, which say what to do."""

    def fingerprint(self) -> str:
        """A short hash of the weights: two networks with equal fingerprints compute the same.

        Covers every value that is used, sizes and normalisation, but not the precision:
        `cast` keeps it. Computed once (about a second for 300 million parameters), then kept.
        """
        if self._fingerprint is None:
            self._fingerprint = digest(self._identity())
        return self._fingerprint

    def _identity(self) -> Mapping[str, Tensor]:
        """All that decides what is computed."""
        return self.state_dict()

    def freeze(self) -> Self:
        """Switch parameter gradients off and stay in eval mode."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        return self.eval()

    def cast(self, precision: torch.dtype) -> Self:
        """Hold the frozen weights in `precision` from now on, in place; returns itself.

        Cheaper than autocast, which casts fp32 weights again at every forward, and bf16 halves
        their memory. The network then ignores any autocast around it, normalises images in fp32
        and returns features in `precision`: compute distances on `features.float()`. Back to a
        wider precision the weights are built again from their source, so nothing is lost; for a
        network that was not built from a configuration that raises ValueError.
        """
        if self.precision not in (precision, torch.float32):
            self._restore()
        if self.precision != precision:
            self.fingerprint()  # of the exact values
            for tensor in self._castable():
                tensor.data = tensor.data.to(precision)
        self._cast = precision
        return self

    @property
    def precision(self) -> torch.dtype:
        """What the frozen weights are held in."""
        return self._cast or torch.float32

    def _castable(self) -> Iterator[Tensor]:
        for module in self.modules():
            # Running statistics lose too many digits in bf16; torch mixes the two by itself.
            if not isinstance(module, (FrozenNetwork, nn.modules.batchnorm._BatchNorm)):
                for tensor in (*module.parameters(False), *module.buffers(False)):
                    if tensor.is_floating_point():
                        yield tensor

    def _restore(self) -> None:
        """Take the exact values again from where the configuration says."""
        if self.config is None:
            raise ValueError(
                f"the weights were cast to {self.precision} and lost their digits; build the "
                "backbone again, or build it with build_backbone, which can restore them."
            )
        exact = type(self).build(self.config)
        for mine, theirs in zip(self._castable(), exact._castable(), strict=True):
            mine.data = theirs.data.to(mine.device)
        self._cast = None

    def train(self, mode: bool = True) -> Self:
        """A frozen network never leaves eval mode."""
        return super().train(False)

    def _as_cast(self, tensor: Tensor) -> Tensor:
        """`tensor` in the precision the network was cast to, if it was."""
        return tensor if self._cast is None else tensor.to(self._cast)

    @contextmanager
    def _own_precision(self, near: Tensor) -> Iterator[None]:
        """Autocast around a network that was already cast would only convert to and fro."""
        if self._cast is None:
            yield
            return
        with torch.autocast(near.device.type, enabled=False):
            yield


class Backbone(FrozenNetwork):
    """A frozen network that turns images into features.

    Normalisation belongs to the backbone: `extract` takes images in 0..1. A method may override
    mean and std at construction (QFAE uses 0.449 and 0.226 for every network).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many blocks or stages can be asked for."""

    @abstractmethod
    def width(self, block: int) -> int:
        """Channels D of a block's tokens; negative indices count from the end."""

    @abstractmethod
    def extract(
        self, image: Tensor, blocks: Sequence[int], *, after_block: TokenHook | None = None
    ) -> Features:
        """Features of `image` (B, 3, H, W in 0..1) after each of `blocks`, in the order asked.

        Features are those of the block itself; what `after_block` returns is what the next block
        sees. Negative indices count from the end. Stops after the last block that is needed.
        Raises ValueError for an image whose side does not fit the patches, naming sides that do.
        """

    def _identity(self) -> Mapping[str, Tensor]:
        return {**self.state_dict(), "mean": self.mean, "std": self.std}

    def normalised(self, image: Tensor) -> Tensor:
        """`image` minus mean over std, computed in fp32, in the precision the network takes."""
        return self._as_cast((image.float() - self.mean) / self.std)

    def block_index(self, block: int) -> int:
        """`block` counted from the start. Raises ValueError if there is no such block."""
        if not -self.depth <= block < self.depth:
            raise ValueError(
                f"block {block} does not exist: this backbone has {self.depth} of them, "
                f"0 to {self.depth - 1} (or -{self.depth} to -1 counted from the end)."
            )
        return block % self.depth


def digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits over names, shapes, kinds and every value."""
    total = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
