"""Attention of CLIP's blocks in bf16 on a CPU: two products against torch's own.

    OMP_NUM_THREADS=1 python benchmarks/attention.py

One frozen block of tiny-CLIP's size (257 tokens, width 192, three heads) under autocast, forward
and backward, in batches of 8 and 16. Milliseconds of one thread, so that other jobs hardly count.
"""

from unittest.mock import patch

import torch
from open_clip.transformer import ResidualAttentionBlock

from measuring import per_call
from result_tables import head, line
from scanomaly.backbones.clip.blocks import attend, project

TOKENS, WIDTH, HEADS = 257, 192, 3
WITHOUT = patch("scanomaly.backbones.clip.blocks.MOST_WEIGHTS", 0)


def milliseconds(block: ResidualAttentionBlock, tokens: torch.Tensor) -> float:
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            found = attend(block, tokens, project(block, tokens))
        found.float().square().mean().backward()

    return 1000 * per_call(step, 5.0)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    block = ResidualAttentionBlock(WIDTH, HEADS).requires_grad_(False)
    for text in head(["batch", "torch's own", "two products", "ratio"]):
        print(text)
    for batch in (8, 16):
        tokens = torch.randn(batch, TOKENS, WIDTH).requires_grad_()
        with WITHOUT:
            plain = milliseconds(block, tokens)
        ours = milliseconds(block, tokens)
        print(line([str(batch), f"{plain:.1f} ms", f"{ours:.1f} ms", f"{plain / ours:.2f}"]))


if __name__ == "__main__":
    main()
