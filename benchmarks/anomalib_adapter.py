"""PatchCore through our adapter against anomalib's own on the same simulated images.

    python benchmarks/anomalib_adapter.py WORK [--patients 60] [--rounds 3] [--side 128]
    python benchmarks/anomalib_adapter.py WORK --quick       # few images, one round: does it run?

Both read EfficientNet-Lite0 with the same values, decode the same files, draw the same coreset and
score the same test images; rounds take turns. Of anomalib there is the torch model with its own
feature extractor in a plain loop: its Engine would only add time. Targets: fit and predict within
1.1 times its time, image AUROC equal to 0.001.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from measuring import Stopwatch
from scanomaly.backbones.loading import filled, find_source
from scanomaly.config.anomalib_models import AnomalibConfig
from scanomaly.config.run import Run
from scanomaly.data.dataset import ImageDataset
from scanomaly.data.manifest import Manifest, read_manifest
from scanomaly.data.phantom import write_phantom
from scanomaly.methods.outside import AnomalibDetector
from scanomaly.methods.outside.building import require_anomalib, swapped
from scanomaly.methods.outside.detector import seeded
from scanomaly.methods.outside.memory import silent
from scanomaly.metrics import image_metrics
from scanomaly.presets import preset
from scanomaly.records import Batch

TARGET_RATIO, TARGET_AUROC = 1.1, 1e-3
LAYERS = ("blocks.2", "blocks.4")
"""What anomalib calls stages 2 and 3 of EfficientNet-Lite0."""


def batches(images: ImageDataset, size: int) -> Iterator[Batch]:
    for start in range(0, len(images), size):
        yield images.collate([images[i] for i in range(start, min(start + size, len(images)))])


def through_the_adapter(run: Run, train: ImageDataset, test: ImageDataset, work: Path) -> Tensor:
    """Scores (n,) of the test images."""
    detector = AnomalibDetector.build(run.config)
    detector.fit(train, options=run.fit, run_dir=work)
    size = run.fit.micro_batch
    return torch.cat([detector.predict(batch).score for batch in batches(test, size)])


@torch.no_grad()
def by_anomalib(run: Run, train: ImageDataset, test: ImageDataset) -> Tensor:
    """The same from anomalib's torch model."""
    from anomalib.models.components.sampling import k_center_greedy
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    config: Any = run.config
    model = PatchcoreModel(LAYERS, config.backbone.name.partition(".")[0], pre_trained=False)
    source = find_source(config.backbone)
    network: Any = model.feature_extractor.feature_extractor
    missing = network.load_state_dict(filled(source).state_dict(), strict=False).missing_keys
    assert not missing, missing
    mean, std = (torch.tensor([0.5] * 3).view(1, 3, 1, 1) for _ in range(2))  # Lite0's own
    size = run.fit.micro_batch
    with seeded(run.fit.seed, torch.device("cpu")), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model.train()
        for batch in batches(train, size):
            model((batch.image - mean) / std)
        with swapped(k_center_greedy, {"tqdm": silent}):
            model.subsample_embedding(config.model.coreset_ratio)
    model.eval()
    scores = [model((batch.image - mean) / std).pred_score for batch in batches(test, size)]
    return torch.cat(scores)


def auroc(scores: Tensor, test: Manifest) -> float:
    labels = [bool(row.label) for row in test]
    found = image_metrics(np.asarray(scores), labels, [row.patient or row.id for row in test])
    value = found["auroc"].value
    assert value is not None
    return value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.patients, options.rounds = 12, 1
    data = options.work / f"phantom-{options.patients}"
    if not (data / "phantom.csv").exists():
        write_phantom(data, patients=options.patients, seed=0)
    manifest = read_manifest(data)
    run = preset("patchcore-offline").with_overrides([f"config.side={options.side}"])
    assert isinstance(run.config, AnomalibConfig)
    test_rows = manifest.split("test")
    train, test = (
        ImageDataset(rows, run.config.input_spec, run.data, with_masks=False)
        for rows in (manifest.training(), test_rows)
    )
    found: dict[str, Tensor] = {}
    contenders: dict[str, Callable[[], None]] = {
        "plain": lambda: found.update(plain=by_anomalib(run, train, test)),
        "adapter": lambda: found.update(
            adapter=through_the_adapter(run, train, test, options.work / "run")
        ),
    }
    require_anomalib()  # before the clock
    for images in (train, test):  # files into the system's cache
        for batch in batches(images, run.fit.micro_batch):
            side = batch.image.shape[-1]
    seconds = Stopwatch(options.rounds, time.perf_counter).seconds(contenders)
    print(f"{len(train)} images learned, {len(test)} scored, {side} pixels a side")
    for name, times in seconds.items():
        print(
            f"  {name}: {statistics.median(times):.2f} s, AUROC {auroc(found[name], test_rows):.4f}"
        )
    ratios = [a / b for a, b in zip(seconds["adapter"], seconds["plain"], strict=True)]
    difference = abs(auroc(found["adapter"], test_rows) - auroc(found["plain"], test_rows))
    print(f"time {statistics.median(ratios):.3f}x (target {TARGET_RATIO}x)")
    print(f"AUROC differs by {difference:.5f} (target {TARGET_AUROC})")


if __name__ == "__main__":
    main()
