"""The frozen CNN of the offline presets: norms folded and gradients of depthwise ones in fp32.

    OMP_NUM_THREADS=1 python benchmarks/frozen_cnn.py

EfficientNet-Lite0 under bf16 autocast, 32 images of 128 px as in `qfae-offline`'s perceptual loss:
features alone, and with the gradient to the images; as timm makes the network and as we build it.
Seconds of one thread, so that other jobs hardly count.
"""

from contextlib import ExitStack
from unittest.mock import patch

import torch

from measuring import per_call
from result_tables import head, line
from scanomaly.backbones import Backbone, build_backbone
from scanomaly.config.backbones import BackboneConfig

NETWORK = BackboneConfig(name="tf_efficientnet_lite0")
IMAGES, SIDE, STAGES = 32, 128, (1, 2, 3)
CHANGES = ("fold_batch_norms", "with_exact_depthwise")


def as_timm_makes_it() -> Backbone:
    with ExitStack() as stack:
        for change in CHANGES:
            stack.enter_context(patch(f"scanomaly.backbones.cnn.{change}"))
        return build_backbone(NETWORK)


def seconds(backbone: Backbone, image: torch.Tensor, *, gradient: bool) -> float:
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradient):
            features = backbone.extract(image, STAGES)
        if gradient:
            values = [tokens.float().square().mean() for tokens in features.patches]
            torch.stack(values).sum().backward()

    return per_call(step, 10.0)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    image = torch.rand(IMAGES, 3, SIDE, SIDE)
    for text in head(["32 images", "as timm makes it", "as we build it", "ratio"]):
        print(text)
    for what, gradient in (("features", False), ("and gradient", True)):
        given = image.clone().requires_grad_(gradient)
        plain = seconds(as_timm_makes_it(), given, gradient=gradient)
        ours = seconds(build_backbone(NETWORK), given, gradient=gradient)
        print(line([what, f"{plain:.3f} s", f"{ours:.3f} s", f"{plain / ours:.2f}"]))


if __name__ == "__main__":
    main()
