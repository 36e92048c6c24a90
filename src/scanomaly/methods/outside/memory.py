"""What anomalib's models take from all training images without a gradient step.

N rows of a memory, B images, D width, S side in pixels
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from scanomaly.config.anomalib_models import Winclip
from scanomaly.errors import FitError
from scanomaly.methods.mvfa import owner_of
from scanomaly.methods.outside.building import swapped
from scanomaly.methods.outside.flow_maps import FlowMaps

Images = Iterable[tuple[Tensor, tuple[str, ...]]]
"""Batches (B, 3, S, S) as the model takes them, and the ids of their images."""
Fill = Callable[[Any, Any, Images], Tensor]
"""(anomalib's torch model in train mode, its options, images) -> int64 (N,), whose each row is."""
Take = Callable[[Any, Images], None]


def fill_memory(model: Any, options: Any, images: Images) -> Tensor:
    """As anomalib fills its memory; and whose patch each row of it is."""
    owners = []
    for image, ids in images:
        model(image)
        rows = len(model.embedding_store[-1]) // len(ids)
        owners.append(_owners(ids).repeat_interleave(rows))
    found = torch.vstack(model.embedding_store)
    model.embedding_store.clear()
    kept = coreset(found, options.coreset_ratio)
    model.memory_bank = found[kept]
    return torch.cat(owners)[kept]


def coreset(rows: Tensor, share: float) -> Tensor:
    """Which rows (N, D) to keep: anomalib's greedy coreset, or all of them for a share of 1."""
    if share == 1:
        return torch.arange(len(rows))
    file = import_module("anomalib.models.components.sampling.k_center_greedy")
    if int(len(rows) * share) == 0:
        raise FitError(
            f"config.model.coreset_ratio={share} of {len(rows)} patches keeps none; raise it."
        )
    with swapped(file, {"tqdm": silent}):
        return torch.tensor(file.KCenterGreedy(rows, sampling_ratio=share).select_coreset_idxs())


def fit_gaussians(model: Any, _: Any, images: Images) -> Tensor:
    """PaDiM's. Raises FitError for a single image, which has no covariance."""
    count = 0
    for image, ids in images:
        model(image)
        count += len(ids)
    if count < 2:
        raise FitError(f"padim needs at least 2 normal images to see how they vary, got {count}.")
    model.fit()
    # as it will be read back: sums in another order differ in the last digit
    model.gaussian.inv_covariance = model.gaussian.inv_covariance.contiguous()
    return torch.zeros(0, dtype=torch.int64)


def remember_windows(model: Any, options: Winclip, images: Images) -> Tensor:
    """WinCLIP's prompts, and its windows of the images in few-shot."""
    if not options.few_shot:
        model.setup(options.object, None)
        return torch.zeros(0, dtype=torch.int64)
    found = list(images)
    model.setup(options.object, torch.cat([image for image, _ in found]))
    return torch.cat([_owners(ids) for _, ids in found])


def find_centres(model: Any, images: Images) -> None:
    """CFA's, from what its descriptor says before it learns."""
    batches = (SimpleNamespace(image=image) for image, _ in images)
    with swapped(import_module(type(model).__module__), {"tqdm": silent}):
        model.initialize_centroid(batches)


def find_highest(model: Any, images: Images) -> None:
    """Likelihoods of CFLOW, from what its flows have learned."""
    maps: FlowMaps = model.eval().anomaly_map_generator
    maps.seen = []
    for image, _ in images:
        model(image)
    maps.highest, maps.seen = torch.stack(maps.seen).amax(dim=0), None


def _owners(ids: tuple[str, ...]) -> Tensor:
    return torch.tensor([owner_of(name) for name in ids])


def silent(items: Any, desc: str = "") -> Any:
    """In place of tqdm: progress is the command line's to show."""
    return items


FILLS: Mapping[str, Fill] = {
    "patchcore": fill_memory,
    "anomaly_dino": fill_memory,
    "padim": fit_gaussians,
    "winclip": remember_windows,
}
"""`model.name` -> what takes the place of training."""

BEFORE: Mapping[str, Take] = {"cfa": find_centres}
AFTER: Mapping[str, Take] = {"cflow": find_highest}
"""`model.name` -> what comes before and after training."""
