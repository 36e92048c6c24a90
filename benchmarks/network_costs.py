"""What one image costs in the full-size networks: operations, and processor time.

    python benchmarks/network_costs.py [--small]

The presets qfae-brain, mvfa-few (K = 4) and iqe-few with random weights, as `scanomaly score` runs
them: batches of 16, from pictures in 0..1 to score and map. Operations are those that PyTorch
counts (two for each multiplication and addition in products, convolutions and attention), for a
whole batch, divided by its images; a GPU's time follows from its operations a second. Processor
time is that of one thread, so that other jobs of the machine hardly count. --small takes small
networks, to try the script itself.
"""

import argparse
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from full_size_clip import FULL, SMALL, LabelledImages, Sizes
from full_size_clip import configuration as clip_configuration
from full_size_qfae import configuration as qfae_configuration
from measuring import per_call
from scanomaly.config.fit import Precision
from scanomaly.config.iqe_clip import IqeClipConfig
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.methods.base import Detector
from scanomaly.methods.clip_detector import ClipDetector, load_clip
from scanomaly.methods.iqe_clip import IqeClip
from scanomaly.methods.mvfa import MVFA
from scanomaly.methods.qfae import QFAE
from scanomaly.records import Batch

BATCH = 16
SHOTS = 4
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def qfae(small: bool) -> Detector:
    return QFAE.build(qfae_configuration(small))


def mvfa(small: bool) -> Detector:
    config = clip_configuration("mvfa-few", sizes(small))
    assert isinstance(config, MVFAConfig)
    return with_support(MVFA(config, load_clip(config)))


def iqe_clip(small: bool) -> Detector:
    config = clip_configuration("iqe-few", sizes(small))
    assert isinstance(config, IqeClipConfig)
    return with_support(IqeClip(config, load_clip(config)))


def sizes(small: bool) -> Sizes:
    return SMALL if small else FULL


def with_support(detector: ClipDetector) -> ClipDetector:
    """Ready to score: ranges of its branches and what it remembers, of 2 x K images."""
    support = LabelledImages(2 * SHOTS, detector.input_spec.side)
    with torch.no_grad():
        detector.prepare(support, SHOTS)
        detector.complete(support, SHOTS)
    return detector


DETECTORS: Mapping[str, Callable[[bool], Detector]] = {
    "qfae-brain": qfae,
    f"mvfa-few, K = {SHOTS}": mvfa,
    "iqe-few": iqe_clip,
}


def pictures(side: int) -> Tensor:
    return torch.rand(BATCH, 3, side, side, generator=torch.Generator().manual_seed(1))


def measure(name: str, detector: Detector) -> None:
    detector.eval().requires_grad_(False)
    batch = Batch(pictures(detector.input_spec.side), tuple(map(str, range(BATCH))))
    with FlopCounterMode(display=False) as counted:
        detector.use_precision("fp32").predict(batch)
    operations = counted.get_total_flops() / BATCH
    print(f"{name}: {operations / 1e9:.0f} billion operations an image", flush=True)
    for precision in PRECISIONS:
        detector.use_precision(precision)
        seconds = per_call(lambda: detector.predict(batch)) / BATCH
        print(
            f"  {precision}: {seconds:.2f} s an image on one thread, "
            f"{operations / seconds / 1e9:.0f} billion operations/s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small networks, to try the script")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, build in DETECTORS.items():
        measure(name, build(options.small))


if __name__ == "__main__":
    main()
