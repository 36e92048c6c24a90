"""Attention in bf16 on a CPU: two products against torch's own.

    OMP_NUM_THREADS=1 python benchmarks/attention.py

Forward and backward under autocast: one frozen block of tiny-CLIP's size (257 tokens, width 192,
three heads) in batches of 8 and 16, and an attention of `qfae-offline`'s junction (256 queries, 257
keys, eight heads of width 20) in a batch of 32. Milliseconds of one thread, so that other jobs
hardly count.
"""

from collections.abc import Callable
from unittest.mock import patch

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from measuring import per_call
from result_tables import head, line
from scanomaly.backbones.clip.blocks import attend, project
from scanomaly.nn.attention import attention

TOKENS, WIDTH, HEADS = 257, 192, 3
JUNCTION = ((32, 8, 256, 20), (32, 8, 257, 20), (32, 8, 257, 20))
WITHOUT = patch("scanomaly.nn.attention.MOST_WEIGHTS", 0)


def block_of_clip(batch: int) -> Callable[[], Tensor]:
    block = ResidualAttentionBlock(WIDTH, HEADS).requires_grad_(False)
    tokens = torch.randn(batch, TOKENS, WIDTH).requires_grad_()
    return lambda: attend(block, tokens, project(block, tokens))


def junction_of_qfae() -> Callable[[], Tensor]:
    inputs = [torch.randn(shape).bfloat16().requires_grad_() for shape in JUNCTION]
    return lambda: attention(*inputs)


def milliseconds(compute: Callable[[], Tensor]) -> float:
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            found = compute()
        found.float().square().mean().backward()

    return 1000 * per_call(step, 5.0)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cases = {f"block of tiny-CLIP, batch {batch}": block_of_clip(batch) for batch in (8, 16)}
    cases["junction of qfae-offline, batch 32"] = junction_of_qfae()
    for text in head(["what", "torch's own", "two products", "ratio"]):
        print(text)
    for what, compute in cases.items():
        with WITHOUT:
            plain = milliseconds(compute)
        ours = milliseconds(compute)
        print(line([what, f"{plain:.1f} ms", f"{ours:.1f} ms", f"{plain / ours:.2f}"]))


if __name__ == "__main__":
    main()
