"""One level of MVFA's memory bank at K = 16 against a plain search: a part of `full_size_clip.py`.

Memory is the most that tensors of a search hold at once; what the matrix library keeps is not in.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from measuring import Stopwatch, Work, peak_of_tensors, print_ratios
from plain_mvfa import nearest
from scanomaly.nn.memory_bank import MemoryBank

SHOTS, COPIES, TOKENS, WIDTH = 16, 11, 290, 768
SCORED = 8
"""Images whose patches are looked for at once."""
MEGABYTE = 10**6

Search = Callable[[Tensor, Tensor], Work]
"""What is remembered (N, T, E), patches (B, L, E) -> the search, ready to run."""


def random_bank() -> tuple[Tensor, Tensor]:
    """What one level remembers at K = 16 (N, T, E), and patches of test images (B, L, E)."""
    generator = torch.Generator().manual_seed(3)
    memory = torch.randn(SHOTS * COPIES, TOKENS, WIDTH, generator=generator)
    return memory, torch.randn(SCORED, TOKENS - 1, WIDTH, generator=generator)


def filled(memory: Tensor) -> MemoryBank:
    bank = MemoryBank()
    bank.remember(memory, torch.arange(len(memory)) % SHOTS)
    return bank


def search_plainly(memory: Tensor, tokens: Tensor) -> Work:
    rows = memory.flatten(0, 1)
    return lambda: torch.stack([nearest(patches, rows) for patches in tokens])


def search_exactly(memory: Tensor, tokens: Tensor) -> Work:
    bank = filled(memory)
    return lambda: bank.distances(tokens)


def search_roughly(memory: Tensor, tokens: Tensor) -> Work:
    return search_exactly(memory, tokens.bfloat16())


SEARCHES: Mapping[str, Search] = {
    "plain": search_plainly,
    "exact": search_exactly,
    "bf16": search_roughly,
}


@torch.no_grad()
def compare_banks(watch: Stopwatch) -> None:
    """Time, results, memory."""
    given = random_bank()
    searches = {name: search(*given) for name, search in SEARCHES.items()}
    found: dict[str, Tensor] = {name: search() for name, search in searches.items()}
    title = f"memory bank of one level, K = {SHOTS}, {SCORED} images"
    print_ratios(title, watch.seconds(searches), {"exact": 1.6, "bf16": 4.0})
    differences = {name: (one - found["plain"]).abs().max() for name, one in found.items()}
    print(f"  difference {differences['exact']:.1e}, in bf16 {differences['bf16']:.1e}", flush=True)
    peaks = {name: peak_of_tensors(search) / MEGABYTE for name, search in searches.items()}
    extra = ", ".join(f"{name} {peak:.1f} MB" for name, peak in peaks.items())
    print(f"  extra memory: {extra} (target 20)", flush=True)
