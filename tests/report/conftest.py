"""An evaluation of simulated slices, made without a detector."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from scanomaly.config.qfae import QFAEConfig
from scanomaly.config.run import Run
from scanomaly.evaluation import Evaluation
from scanomaly.metrics import auroc_by_stratum, bin_names, bins_of, image_metrics, pixel_metrics
from scanomaly.panels import Panel, ScoredImage

IMAGES, SIDE, THRESHOLD = 80, 96, 1.2
SIZES = (0, 5, 10, 20, 100)


def brain(seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """A grey oval with folds, two dark ventricles and noise: uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]  # type: ignore[misc]
    head = (x / 0.72) ** 2 + (y / 0.88) ** 2
    folds = gaussian_filter(rng.normal(size=(side, side)), side / 40)
    grey = np.where(head < 1, 120 + 45 * (head < 0.65) + 22 * folds / folds.std(), 0.0)
    for centre in (-0.13, 0.13):
        grey[((x - centre) / 0.08) ** 2 + ((y + 0.05) / 0.28) ** 2 < 1] = 40
    grey = gaussian_filter(grey, side / 160) + rng.normal(0, 4, (side, side)) * (head < 1.05)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def lesion(seed: int, side: int = SIDE) -> NDArray[np.bool_]:
    """A disc in the left or right half: bool (side, side)."""
    rng = np.random.default_rng([seed, 1])
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]  # type: ignore[misc]
    centre = rng.choice([-1, 1]) * rng.uniform(0.25, 0.45), rng.uniform(-0.4, 0.4)
    return np.asarray(np.hypot(x - centre[0], y - centre[1]) < rng.uniform(0.03, 0.24))


def panel(kind: str, scored: ScoredImage, seed: int, side: int = SIDE) -> Panel:
    """Pictures of one simulated slice whose map is as strong as its score says."""
    abnormal, truth = kind in ("hit", "miss"), lesion(seed, side)
    image = brain(seed, side)
    reconstruction = gaussian_filter(image, (side / 80, side / 80, 0))
    strength = 1.0 if kind in ("hit", "false alarm") else 0.25
    heat = strength * gaussian_filter(truth.astype(np.float32), side / 40)
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=truth.shape), side / 40)
    noise *= 0.08 * (image[..., 0] > 0) / noise.std()
    if abnormal:
        image = np.where(truth[..., None], np.uint8(225), image)
    return Panel(
        kind=kind,
        scored=scored,
        image=image,
        anomaly_map=(heat + noise).astype(np.float32),
        reconstruction=reconstruction,
        truth=truth if abnormal else np.zeros_like(truth),
    )


def scored_rows() -> tuple[ScoredImage, ...]:
    """40 normal and 40 abnormal images, two of each patient."""
    rng = np.random.default_rng(0)
    labels = np.arange(IMAGES) >= IMAGES // 2
    scores = rng.normal(labels * 1.9, 1.0).astype(np.float32)
    return tuple(
        ScoredImage(
            id=f"phantom-{i // 2:04d}_{i % 2}",
            patient=f"phantom-{i // 2:04d}",
            label=bool(label),
            score=float(score),
            p_value=1 / (1 + np.exp(float(score) * 1.8)),
            flagged=bool(score > THRESHOLD),
        )
        for i, (label, score) in enumerate(zip(labels, scores, strict=True))
    )


def panels_of(rows: tuple[ScoredImage, ...], side: int = SIDE, each: int = 2) -> tuple[Panel, ...]:
    """Some panels of every kind."""
    kinds = {
        "hit": (True, True),
        "miss": (True, False),
        "false alarm": (False, True),
        "correct rejection": (False, False),
    }
    return tuple(
        panel(kind, row, seed, side)
        for kind, wanted in kinds.items()
        for seed, row in [(i, r) for i, r in enumerate(rows) if (r.label, r.flagged) == wanted][
            :each
        ]
    )


def make_evaluation(**changes: Any) -> Evaluation:
    """A complete evaluation; `changes` replace its fields."""
    rows = scored_rows()
    scores, labels = [row.score for row in rows], [bool(row.label) for row in rows]
    groups = [str(row.patient) for row in rows]
    truths = [lesion(i) & label for i, label in enumerate(labels)]
    sizes = [float(200 * np.sqrt(truth.mean() / np.pi)) for truth in truths]
    strata = [
        name if size else None for name, size in zip(bins_of(sizes, SIZES), sizes, strict=True)
    ]
    kinds = ["cyst" if at % 3 else "haemorrhage" for at in range(len(rows))]
    noise = np.random.default_rng(3).normal(0, 1.2, (len(rows), SIDE, SIDE))
    maps = [gaussian_filter(t * 0.6 + n, 2) for t, n in zip(truths, noise, strict=True)]
    values: dict[str, Any] = {
        "run": Run(
            preset="qfae-offline", source="our own measurements", method="qfae", config=QFAEConfig()
        ),
        "dataset": "phantom",
        "protocol": "honest",
        "pixel_grid": f"model {SIDE}x{SIDE}",
        "splits": {
            "trained": "train: 400 normal images of 50 patients",
            "chose the checkpoint": "valid: 40 normal images",
            "calibrated": "valid: 40 normal images",
            "scored": "test: 40 normal and 40 abnormal images",
        },
        "image": image_metrics(scores, labels, groups, repeats=100),
        "pixel": pixel_metrics(maps, truths, groups, repeats=20),
        "by_size": auroc_by_stratum(
            scores, labels, strata, groups, names=bin_names(SIZES), repeats=100
        ),
        "by_kind": auroc_by_stratum(scores, labels, kinds, groups, repeats=100),
        "rows": rows,
        "panels": panels_of(rows),
        "threshold": THRESHOLD,
        "false_alarm_rate": 0.05,
        "resampled": "patients",
        "seconds_per_image": 0.043,
        "weights": ("tf_efficientnet_lite0.in1k (Google, ImageNet-1k): Apache-2.0",),
        "notes": (),
    }
    return Evaluation(**(values | changes))


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    """A complete evaluation."""
    return make_evaluation()


@pytest.fixture(scope="session")
def variant() -> Callable[..., Evaluation]:
    """Makes an evaluation with some fields replaced."""
    return make_evaluation
