"""A training step of the offline answerers' CNN, not frozen: depthwise convolutions in bf16, fp32.

    OMP_NUM_THREADS=1 python benchmarks/depthwise.py

`kqf-offline`'s EfficientNet-Lite0 under bf16 autocast, 24 images a step as in its training, when it
learns (config.visual.frozen=false). Seconds of one thread, so that other jobs hardly count.
"""

from unittest.mock import patch

import torch

from measuring import per_call
from result_tables import head, line
from scanomaly.presets import vqa_preset
from scanomaly.vqa.visual import VisualEncoder, build_encoder

WITHOUT = patch("scanomaly.vqa.visual.with_exact_depthwise", lambda network: network)


def seconds(encoder: VisualEncoder, image: torch.Tensor) -> float:
    encoder.train()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            tokens = encoder(image)
        tokens.float().square().mean().backward()

    return per_call(step, 10.0)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    run = vqa_preset("kqf-offline")
    side = run.data.crop
    image = torch.rand(len(run.config.slots) * run.fit.batch_size, 3, side, side) * 2 - 1
    visual = run.config.visual.model_copy(update={"frozen": False})
    with WITHOUT:
        plain = seconds(build_encoder(visual), image)
    exact = seconds(build_encoder(visual), image)
    for text in head(["bf16", "depthwise in fp32", "ratio"]):
        print(text)
    print(line([f"{plain:.3f} s", f"{exact:.3f} s", f"{plain / exact:.2f}"]))


if __name__ == "__main__":
    main()
