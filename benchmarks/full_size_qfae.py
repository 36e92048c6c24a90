"""Full-size QFAE against a plain implementation of its specification: time, memory, equality.

    python benchmarks/full_size_qfae.py [--rounds 5] [--busy] [--small]

Ours is the preset qfae-brain (DINOv2 ViT-L/14 with registers and MAE ViT-L, random weights) at
224 px on batches of 2; the rival is `plain_qfae.py` with the same values in every tensor. A round
runs all contenders one after the other, so that the machine's mood hits them alike; a ratio is the
median over rounds of plain seconds by our seconds of the same round, after one round that is
compared, not timed. A training step is zero gradients, forward, backward, Adam, one-cycle schedule.
Memory is the peak resident size, weights included, in a process of its own (Linux: /proc), where
the rival holds one copy of the MAE per patch size as the published code does. While times are taken
its copies share memory, which changes no time and spares the machine 2.4 GB. --busy is for a
machine that others use: one thread, and seconds of the processor in place of the clock on the wall.
--small replaces the networks by tiny ones, to try the script itself.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from measuring import Stopwatch, Work, print_ratios, resident_peak
from plain_qfae import PlainQFAE
from scanomaly.config.backbones import BackboneConfig
from scanomaly.config.fit import FitOptions, Precision
from scanomaly.config.qfae import (
    DecoderConfig,
    EncoderConfig,
    JunctionConfig,
    PerceptualConfig,
    QFAEConfig,
    ViewsConfig,
    qfae_backbone,
)
from scanomaly.methods.feature_cache import CachedFeatures
from scanomaly.methods.qfae import QFAE
from scanomaly.methods.reconstruction import Observation
from scanomaly.presets import preset
from scanomaly.records import Batch, Draw
from scanomaly.training.optimisers import optimiser_and_schedule

BATCH = 2
GIB = 1 << 30


def configuration(small: bool) -> QFAEConfig:
    """qfae-brain on random weights; `small`: the same parts at a fraction of the size."""
    config = preset("qfae-brain").config
    assert isinstance(config, QFAEConfig)
    if small:
        config = QFAEConfig(
            encoders=(EncoderConfig(backbone=qfae_backbone("vit_small_patch14_reg4_dinov2")),),
            junction=JunctionConfig(width=192),
            decoder=DecoderConfig(width=192, depth=2, heads=3),
            perceptual=PerceptualConfig(backbone=qfae_backbone("vit_tiny_patch16_224")),
            loss_views=ViewsConfig(blocks=(7, 9), patches=(32, 56)),
            score_views=ViewsConfig(blocks=(5, 7, 9), patches=(16, 32, 56)),
        )
    (encoder,) = config.encoders
    encoder = encoder.model_copy(update={"backbone": with_random_weights(encoder.backbone)})
    perceptual = PerceptualConfig(backbone=with_random_weights(config.perceptual.backbone))
    return config.model_copy(update={"encoders": (encoder,), "perceptual": perceptual})


def with_random_weights(backbone: BackboneConfig) -> BackboneConfig:
    return backbone.model_copy(update={"weights": "random"})


def random_images() -> Tensor:
    """(B, 3, 224, 224) in 0..1, the same in every process."""
    return torch.rand(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))


class InMemory:
    """Training data without files."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Tensor:
        return self.images[draw.index]

    def collate(self, items: list[Tensor]) -> Tensor:
        return torch.stack(items)


def our_loss(detector: QFAE, images: Tensor) -> Callable[[], Tensor]:
    """The loss as `fit` computes it, in the detector's precision."""

    def loss() -> Tensor:
        with detector.autocast():
            return detector.loss(detector.observe(images, detector.loss_views))

    return loss


def our_cached_loss(detector: QFAE, images: Tensor, folder: Path) -> Callable[[], Tensor]:
    """The loss with `fit.cache_features`; reading the cache is part of it."""

    def observe(images: Tensor) -> Observation:
        return detector.observe(images, detector.loss_views)

    cache = CachedFeatures(InMemory(images), observe, folder, BATCH)
    draws = [Draw(0, index) for index in range(BATCH)]
    return lambda: detector.loss(cache.collate([cache[draw] for draw in draws]))


class Trainee:
    """A model with its loss and optimiser."""

    def __init__(self, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.model, self.loss = model, loss
        parameters = [p for p in model.parameters() if p.requires_grad]
        setup = optimiser_and_schedule(parameters, FitOptions(), total_steps=1000)
        self.optimiser, self.schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]

    def forward_and_backward(self) -> float:
        """The loss; gradients are left in the parameters."""
        self.model.train()
        self.optimiser.zero_grad()
        torch.manual_seed(0)  # the same units drop out in every contender
        loss = self.loss()
        loss.backward()
        return loss.item()

    def step(self) -> None:
        self.forward_and_backward()
        self.optimiser.step()
        self.schedule.step()

    def gradient(self) -> Tensor:
        """All gradients in one row, sorted by the tensors' names."""
        named = sorted(self.model.named_parameters(), key=lambda pair: pair[0])
        return torch.cat([p.grad.flatten() for _, p in named if p.grad is not None])


def compare_evaluation(plain: PlainQFAE, exact: QFAE, bf16: QFAE, watch: Stopwatch) -> None:
    images = random_images()
    batch = Batch(images, ids=("first", "second"))
    plain.eval()
    scores, maps = plain.predict(images)
    ours, rough = exact.predict(batch), bf16.predict(batch)
    times = watch.seconds(
        {
            "plain": lambda: plain.predict(images),
            "exact": lambda: exact.predict(batch),
            "bf16": lambda: bf16.predict(batch),
        }
    )
    print_ratios("evaluation", times, {"exact": 1.1, "bf16": 2.5})
    difference, of_maps = (ours.score - scores).abs().max(), (ours.anomaly_map - maps).abs().max()
    print(
        f"  scores {', '.join(f'{score:.4f}' for score in scores.tolist())}; difference "
        f"{difference:.1e} (target 1e-6), of maps {of_maps:.1e}, of scores in bf16 "
        f"{(rough.score - scores).abs().max():.1e}"
    )


def compare_training(plain: PlainQFAE, exact: QFAE, bf16: QFAE, watch: Stopwatch) -> None:
    images = random_images()
    with tempfile.TemporaryDirectory() as folder:
        of_exact = Trainee(exact, our_loss(exact, images))
        cached = copy.copy(of_exact)  # the same model and optimiser
        cached.loss = our_cached_loss(exact, images, Path(folder) / "cache")
        trainees = {
            "plain": Trainee(plain, lambda: plain.loss(images)),
            "exact": of_exact,
            "cached": cached,
            "bf16": Trainee(bf16, our_loss(bf16, images)),
        }
        losses: dict[str, float] = {}
        gradients: dict[str, Tensor] = {}
        for name, trainee in trainees.items():
            losses[name] = trainee.forward_and_backward()
            gradients[name] = trainee.gradient()
        times = watch.seconds({name: t.step for name, t in trainees.items()})
    print_ratios("training step", times, {"exact": 1.1, "cached": 1.6, "bf16": 2.0})
    differences = {
        name: (
            abs(losses[name] - losses["plain"]),
            float((gradients[name] - gradients["plain"]).norm() / gradients["plain"].norm()),
        )
        for name in ("exact", "cached", "bf16")
    }
    print(
        f"  loss {losses['plain']:.6f}; difference, and relative of the gradient: "
        + ", ".join(f"{name} {a:.1e} {b:.1e}" for name, (a, b) in differences.items())
    )


def build_ours(config: QFAEConfig, precision: Precision) -> QFAE:
    torch.manual_seed(0)
    return QFAE.build(config).use_precision(precision)


def measure_memory(contender: str, config: QFAEConfig) -> None:
    """Print as JSON the peaks of building, of one evaluation and of one training step."""
    images = random_images()
    evaluate: Work
    if contender == "plain":
        plain = PlainQFAE(config)
        evaluate = lambda: plain.eval().predict(images)  # noqa: E731
        trainee = Trainee(plain, lambda: plain.loss(images))
    else:
        ours = build_ours(config, "bf16" if contender == "bf16" else "fp32")
        batch = Batch(images, ids=("first", "second"))
        evaluate = lambda: ours.predict(batch)  # noqa: E731
        trainee = Trainee(ours, our_loss(ours, images))
    peaks = {"build": resident_peak()}
    for name, work in (("evaluation", evaluate), ("training", trainee.step)):
        work()
        peaks[name] = resident_peak()
    print(json.dumps(peaks))


def report_memory(small: bool) -> None:
    print("peak memory, each in a process of its own (target: not above plain):")
    for contender in ("plain", "exact", "bf16"):
        command = [sys.executable, __file__, "--measure-memory", contender]
        output = subprocess.run(
            [*command, *(["--small"] if small else [])], check=True, capture_output=True, text=True
        ).stdout
        peaks: dict[str, int] = json.loads(output.splitlines()[-1])
        parts = ", ".join(f"{name} {peak / GIB:.2f} GiB" for name, peak in peaks.items())
        print(f"  {contender}: {parts}", flush=True)


def main() -> None:
    """Compare times and results, then measure memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="one thread, processor time")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--measure-memory", metavar="CONTENDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = configuration(options.small)
    if options.measure_memory:
        measure_memory(options.measure_memory, config)
        return
    if options.busy:
        torch.set_num_threads(1)
    watch = Stopwatch(options.rounds, time.process_time if options.busy else time.perf_counter)
    print(f"QFAE at {config.side} px, batch {BATCH}, {torch.get_num_threads()} threads", flush=True)
    exact = build_ours(config, "fp32")
    bf16 = copy.deepcopy(exact).use_precision("bf16")
    plain = PlainQFAE(config, own_copies=False)
    plain.load_trained(exact.fitted_state())
    compare_evaluation(plain, exact, bf16, watch)
    compare_training(plain, exact, bf16, watch)
    del plain, exact, bf16  # before other processes need the memory
    report_memory(options.small)


if __name__ == "__main__":
    main()
