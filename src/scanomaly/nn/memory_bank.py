"""Distances to the nearest token of normal images.

N images in the bank, B images asked about, T tokens of a banked image, L patches, D width
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_NORM = 1e-8
BUFFER = 2**19
"""Similarities held at once: 2 MiB in fp32, near the processor."""
QUERIES = 1024
"""Tokens asked about at once."""
PRECISIONS: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


def unit(tokens: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays."""
    return F.normalize(tokens.float(), dim=-1, eps=LEAST_NORM)


class MemoryBank(nn.Module):
    """Unit tokens of normal images, and to whom they belong.

    tokens: (N, T, D); owner: int64 (N,), equal for all copies of one image. Both are saved with
    the detector and have as many rows as the support set has images: see `make_room`.
    """

    tokens: Tensor
    owner: Tensor

    def __init__(self, precision: str = "fp32") -> None:
        """precision: a key of PRECISIONS, what tokens are held and saved in."""
        super().__init__()
        self.register_buffer("tokens", torch.zeros(0, 0, 0, dtype=PRECISIONS[precision]))
        self.register_buffer("owner", torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def remember(self, tokens: Tensor, owner: Tensor) -> None:
        """Replace what is known: tokens (N, T, D), normalised here once; owner (N,)."""
        self.tokens = unit(tokens).to(self.tokens.dtype)
        self.owner = owner.to(tokens.device)

    def make_room(self, tokens: torch.Size, owner: torch.Size) -> None:
        """Take the shapes of a saved bank, to be filled."""
        self.tokens, self.owner = self.tokens.new_zeros(tokens), self.owner.new_zeros(owner)

    def distances(self, tokens: Tensor, asking: Tensor | None = None) -> Tensor:
        """1 - largest cosine with the bank: (B, L, D) -> fp32 (B, L); zeros for an empty bank.

        asking: int64 (B,): what the bank holds of that owner is left out. Raises ValueError if
        nothing is left. The nearest row is looked for in the tokens' own precision; its distance
        is computed in fp32.
        """
        if len(self) == 0:
            return torch.zeros(tokens.shape[:2], device=tokens.device)
        left_out = None if asking is None else asking[:, None] == self.owner  # (B, N)
        if left_out is not None and bool(left_out.all(dim=1).any()):
            raise ValueError(
                f"expected normal images besides the one left out, got {len(self.owner.unique())} "
                "in the memory bank; give at least 2 normal images."
            )
        at_once = max(1, QUERIES // tokens.shape[1])
        parts = [
            self._distances(some, None if left_out is None else left_out[i * at_once :][:at_once])
            for i, some in enumerate(tokens.split(at_once))
        ]
        return torch.cat(parts)

    def _distances(self, tokens: Tensor, left_out: Tensor | None) -> Tensor:
        """The same for a few images at once, tokens (b, L, D) and left_out (b, N)."""
        queries = unit(tokens).flatten(0, 1)  # (b L, D)
        with torch.autocast(tokens.device.type, enabled=False):
            row = self._nearest(queries.to(tokens.dtype), left_out)
            nearest = self.tokens.flatten(0, 1)[row].float()  # (b L, D)
            cosine = (queries * nearest).sum(dim=1)
        distances: Tensor = (1 - cosine).unflatten(0, tokens.shape[:2])
        return distances

    def _nearest(self, queries: Tensor, left_out: Tensor | None) -> Tensor:
        """Row of the bank nearest to each query (b L, D) -> int64 (b L,), chunk by chunk."""
        width = self.tokens.shape[1]
        per_chunk = max(1, BUFFER // (queries.shape[0] * width))
        touched = [] if left_out is None else left_out.any(dim=0).tolist()
        best = queries.new_full(queries.shape[:1], -torch.inf)
        row = torch.zeros(queries.shape[:1], dtype=torch.int64, device=queries.device)
        for start in range(0, len(self), per_chunk):
            rows = slice(start, start + per_chunk)
            chunk = self.tokens[rows]
            hidden = None if left_out is None or not any(touched[rows]) else left_out[:, rows]
            nearer, similarity, place = _nearer(queries, chunk, hidden, best)
            row[nearer] = place + start * width
            best[nearer] = similarity
        return row


def _nearer(
    queries: Tensor, chunk: Tensor, hidden: Tensor | None, best: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which queries (b L, D) a chunk (n, T, D) is nearer to than `best`; how near, in which row.

    Few are: so places are looked for only then. Similarities do not outlive this function: no two
    chunks' are held at once.
    """
    similar = queries @ chunk.flatten(0, 1).to(queries.dtype).T  # (b L, n T)
    if hidden is not None:
        _hide(similar, hidden, chunk.shape[1])
    highest = similar.amax(dim=1)
    nearer = (highest > best).nonzero().squeeze(1)
    return nearer, highest[nearer], similar[nearer].argmax(dim=1)


def _hide(similar: Tensor, hidden: Tensor, width: int) -> None:
    """Put the similarities (b L, n T) to hidden images (b, n) at minus infinity, in place."""
    images, chunk = hidden.shape
    split = similar.view(images, -1, chunk, width)  # (b, L, n, T)
    split.masked_fill_(hidden[:, None, :, None], -torch.inf)
