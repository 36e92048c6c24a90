"""Full-size MVFA and IQE-CLIP against plain implementations: time and equality.

    python benchmarks/full_size_clip.py [--rounds 5] [--only bank|mvfa|iqe] [--busy] [--small]

Ours are the presets mvfa-few and iqe-few on ViT-L-14-336 with random weights at 240 px; the rivals
are `plain_mvfa.py` and `plain_iqe_clip.py` with the same values in every tensor. A round runs all
contenders one after the other; a ratio is the median over rounds of plain seconds by our seconds
of the same round, after one round that is compared, not timed. A training step is zero gradients,
forward, backward, Adam; ours reads what frozen blocks see from the cache of `fit`. Seconds are
those of one image where batches differ. --busy is for a machine that others use: one thread, and
seconds of the processor in place of the clock on the wall. --small takes a small CLIP, to try the
script itself.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bank_search import compare_banks
from measuring import Stopwatch, print_ratios
from plain_iqe_clip import PlainIqeClip, PlainQueries, text_tower
from plain_mvfa import PlainMVFA, image_tower
from scanomaly.config.backbones import ClipConfig
from scanomaly.config.clip import ClipMethodConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.iqe_clip import IqeClipConfig
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.methods.clip_detector import ClipDetector, load_clip
from scanomaly.methods.feature_cache import CachedFeatures
from scanomaly.methods.iqe_clip import IqeClip
from scanomaly.methods.mvfa import MVFA
from scanomaly.methods.prompts import Texts
from scanomaly.presets import preset
from scanomaly.records import Batch, Draw
from scanomaly.training.optimisers import optimiser_and_schedule, parameter_groups

BATCH = 4
SCORED = 8
"""Test images in a batch."""

Gradients = Mapping[str, Tensor]


class Sizes(NamedTuple):
    """Of the networks; architecture in open_clip's words, blocks of both methods."""

    architecture: str = "ViT-L-14-336"
    side: int = 240
    blocks: tuple[int, ...] = (5, 11, 17, 23)


FULL, SMALL = Sizes(), Sizes("ViT-S-16", side=64, blocks=(2, 5, 8, 11))


def configuration(name: str, sizes: Sizes) -> ClipMethodConfig:
    """The preset's, on random weights."""
    config = preset(name).config.for_dataset("Brain")
    assert isinstance(config, ClipMethodConfig)
    mean, std = config.backbone.mean, config.backbone.std
    backbone = ClipConfig(
        name=f"{sizes.architecture}/none", weights="random", side=sizes.side, mean=mean, std=std
    )
    return config.model_copy(update={"backbone": backbone, "blocks": sizes.blocks})


class LabelledImages:
    """Training data without files: half of the images are abnormal and have a bright square."""

    def __init__(self, count: int, side: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(count, 3, side, side, generator=generator)
        self.labels = torch.arange(count) % 2 == 1
        self.masks = torch.zeros(count, 1, side, side, dtype=torch.bool)
        self.masks[1::2, :, side // 4 : side // 2, side // 4 : side // 2] = True
        self.images = torch.where(self.masks, 0.9, self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> int:
        return draw.index

    def collate(self, items: list[int]) -> Batch:
        ids = tuple(str(item) for item in items)
        return Batch(self.images[items], ids, self.labels[items], self.masks[items])

    def one(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image, mask and label as a plain implementation takes them."""
        part = slice(index, index + 1)
        return self.images[part], self.masks[part].float(), self.labels[part].float()


class Trainee:
    """A model, the backward pass of its loss, and what its optimisers move."""

    def __init__(
        self, model: nn.Module, backward: Callable[[], float], optimisers: list[torch.optim.Adam]
    ) -> None:
        self.model, self.backward, self.optimisers = model, backward, optimisers

    def forward_and_backward(self) -> float:
        """The loss; gradients are left in the parameters."""
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        return self.backward()

    def step(self) -> None:
        self.forward_and_backward()
        for optimiser in self.optimisers:
            optimiser.step()

    def gradients(self) -> Gradients:
        """Of what the optimisers move, by name."""
        moved = {
            id(p) for o in self.optimisers for group in o.param_groups for p in group["params"]
        }
        named = self.model.named_parameters()
        return {n: p.grad.clone() for n, p in named if id(p) in moved and p.grad is not None}


def our_trainee(detector: ClipDetector, data: LabelledImages, size: int, folder: Path) -> Trainee:
    """As `fit` steps with `fit.cache_features`; reading the cache is part of it."""
    detector.eval()  # no dropout in either
    options = FitOptions(schedule="constant", betas=(0.5, 0.999))
    groups = parameter_groups(detector, detector.rates)
    optimiser = optimiser_and_schedule(groups, options, total_steps=1000)["optimizer"]
    cache = CachedFeatures(data, detector.lesson, folder, size)
    draws = [Draw(0, index) for index in range(size)]

    def backward() -> float:
        lesson = detector.as_lesson(cache.collate([cache[draw] for draw in draws]))
        with detector.autocast():
            loss = detector.loss(lesson)
        loss.backward()
        return loss.item()

    return Trainee(detector, backward, [optimiser])


def compare_training(
    title: str,
    trainees: Mapping[str, Trainee],
    targets: dict[str, float],
    images: Mapping[str, int],
    watch: Stopwatch,
) -> None:
    """images: of one step of each, where seconds are to be those of one image."""
    losses = {name: trainee.forward_and_backward() for name, trainee in trainees.items()}
    plain, exact = trainees["plain"].gradients(), trainees["exact"].gradients()
    steps = watch.seconds({name: trainee.step for name, trainee in trainees.items()})
    times = {name: [t / images.get(name, 1) for t in found] for name, found in steps.items()}
    print_ratios(title, times, targets)
    difference = abs(losses["exact"] - losses["plain"]) / abs(losses["plain"])
    print(
        f"  exact: loss {losses['exact']:.6f}, relative difference {difference:.1e}, of the "
        f"gradient {relative_difference(exact, plain):.1e} (target 1e-4)"
    )


def relative_difference(found: Gradients, expected: Gradients) -> float:
    """Of all values together; what only one of the two has must be zero there."""
    names = found.keys() | expected.keys()
    none = torch.zeros(())
    pairs = [(found.get(name, none), expected.get(name, none)) for name in names]
    difference = sum(float((a - b).double().square().sum()) for a, b in pairs)
    return float((difference / sum(float(b.double().square().sum()) for _, b in pairs)) ** 0.5)


class RandomText:
    """In place of the text tower, which no training step of MVFA runs."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.positions = torch.zeros(1)

    def encode(self, ids: Tensor) -> Tensor:
        return torch.randn(len(ids), self.width, generator=torch.Generator().manual_seed(len(ids)))


def compare_mvfa(sizes: Sizes, watch: Stopwatch) -> None:
    """Training steps: the preset's batch of one, and batches in bf16."""
    config = configuration("mvfa-few", sizes)
    assert isinstance(config, MVFAConfig)
    torch.manual_seed(0)
    exact = MVFA(config, load_clip(config))
    exact.texts = Texts(RandomText(exact.text.embed_dim))
    del exact.text.network.transformer.resblocks[1:]  # never run here; spares memory
    tower = image_tower(sizes.architecture, exact.vision.network.state_dict())
    plain = PlainMVFA(tower, sizes.blocks, sizes.side)
    plain.adapters.load_state_dict(exact.adapters.state_dict())
    bf16 = copy.deepcopy(exact).use_precision("bf16")
    data = LabelledImages(BATCH, sizes.side)
    exact.texts.index("Brain")
    (text,) = exact.texts.stacked()
    image, mask, label = data.one(0)

    def plain_backward() -> float:
        loss = plain.loss(image, mask, label, text)
        loss.backward()
        return loss.item()

    heads = plain.adapters.heads.values()
    both = [torch.optim.Adam(head.parameters(), 1e-3, (0.5, 0.999)) for head in heads]
    with tempfile.TemporaryDirectory() as folder:
        trainees = {
            "plain": Trainee(plain, plain_backward, both),
            "exact": our_trainee(exact, data, 1, Path(folder) / "exact"),
            "bf16": our_trainee(bf16, data, BATCH, Path(folder) / "bf16"),
        }
        title = f"MVFA training step, seconds per image, bf16 in batches of {BATCH}"
        targets = {"exact": 1.7, "bf16": 5.0}
        compare_training(title, trainees, targets, {"bf16": BATCH}, watch)


def compare_iqe_training(
    plain: PlainIqeClip, detector: IqeClip, sizes: Sizes, watch: Stopwatch
) -> None:
    data = LabelledImages(BATCH, sizes.side)

    def plain_backward() -> float:
        losses = []
        for index in range(BATCH):
            loss = plain.loss(*data.one(index)) / BATCH
            loss.backward()
            losses.append(loss.item())
        return sum(losses)

    trained = [p for p in plain.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trained, 1e-4, (0.5, 0.999))
    with tempfile.TemporaryDirectory() as folder:
        trainees = {
            "plain": Trainee(plain, plain_backward, [adam]),
            "exact": our_trainee(detector, data, BATCH, Path(folder) / "exact"),
        }
        compare_training(
            f"IQE-CLIP training step, batch {BATCH}", trainees, {"exact": 6.0}, {}, watch
        )


@torch.no_grad()
def compare_iqe_parts(
    plain: PlainIqeClip, detector: IqeClip, sizes: Sizes, watch: Stopwatch
) -> None:
    """The text part and the query transformer of test images, alone and in a batch."""
    assert detector.class_queries is not None
    queries = detector.instance_queries
    assert queries is not None
    generator = torch.Generator().manual_seed(2)
    width, grid = detector.vision.embed_dim, detector.vision.grid
    features = torch.randn(SCORED, width, generator=generator)
    levels = torch.randn(len(sizes.blocks), SCORED, grid[0] * grid[1], width, generator=generator)
    text, start = detector.text_features(features), detector.class_queries(features)
    expected = torch.cat([plain.text_features(one) for one in features[:2].split(1)])
    times = watch.seconds(
        {
            "plain": lambda: plain.text_features(features[:1]),
            "one image": lambda: detector.text_features(features[:1]),
            "batch": lambda: detector.text_features(features),
        }
    )
    print_parts("text part of a test image", times)
    print(f"  largest difference {(text[:2] - expected).abs().max():.1e}")

    def plain_queries(image: int) -> Tensor:
        part = slice(image, image + 1)
        return torch.stack(
            [plain.instance_queries(start[part], level[part], text[part]) for level in levels]
        )

    found = queries(start, levels, text)
    expected = torch.cat([plain_queries(image) for image in range(2)], dim=1)
    one = slice(1)
    times = watch.seconds(
        {
            "plain": lambda: plain_queries(0),
            "one image": lambda: queries(start[one], levels[:, one], text[one]),
            "batch": lambda: queries(start, levels, text),
        }
    )
    print_parts("IQM of a test image", times)
    print(f"  largest difference {(found[:, :2] - expected).abs().max():.1e}")


def print_parts(title: str, times: dict[str, list[float]]) -> None:
    times["batch"] = [seconds / SCORED for seconds in times["batch"]]
    title = f"{title}, seconds per image, batch {SCORED}"
    print_ratios(title, times, {"one image": 5.0, "batch": 5.0})


def compare_iqe(sizes: Sizes, watch: Stopwatch) -> None:
    config = configuration("iqe-few", sizes)
    assert isinstance(config, IqeClipConfig)
    assert config.queries is not None
    torch.manual_seed(0)
    detector = IqeClip(config, load_clip(config)).eval()
    name, options = sizes.architecture, config.queries
    plain = PlainIqeClip(
        image_tower(name, detector.vision.network.state_dict()),
        text_tower(name, detector.text.network.state_dict()),
        detector.prompted_text.ids,
        blocks=sizes.blocks,
        side=sizes.side,
        queries=PlainQueries(
            detector.vision.embed_dim, options.depth, options.heads, options.hidden
        ),
    )
    plain.load_trained(detector.fitted_state())
    compare_iqe_parts(plain, detector, sizes, watch)
    compare_iqe_training(plain, detector, sizes, watch)


PARTS: Mapping[str, Callable[[Sizes, Stopwatch], None]] = {
    "bank": lambda _, watch: compare_banks(watch),
    "mvfa": compare_mvfa,
    "iqe": compare_iqe,
}


def main() -> None:
    """Compare part after part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--busy", action="store_true", help="one thread, processor time")
    parser.add_argument("--small", action="store_true", help="a small CLIP, to try the script")
    options = parser.parse_args()
    if options.busy:
        torch.set_num_threads(1)
    watch = Stopwatch(options.rounds, time.process_time if options.busy else time.perf_counter)
    sizes = SMALL if options.small else FULL
    print(f"{sizes.architecture} at {sizes.side} px, {torch.get_num_threads()} threads", flush=True)
    for name, compare in PARTS.items():
        if options.only in (None, name):
            compare(sizes, watch)


if __name__ == "__main__":
    main()
