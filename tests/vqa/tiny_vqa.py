"""One tiny corpus and the run folder fitted on it, for every test that needs a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanomaly.config.fit import FitOptions
from scanomaly.config.vqa import VqaDataConfig, VqaRun
from scanomaly.data.mivqa import Corpus, VqaItem, read_corpus, write_corpus, write_pictures
from scanomaly.data.rows import Split
from scanomaly.questions import QUESTIONS
from scanomaly.vqa.checkpoint import FittedAnswerer
from scanomaly.vqa.fitting import fit
from vqa.tiny_answerer import DECODER, SIDE, vqa_config

TRIPLES: Mapping[Split, int] = {"train": 8, "valid": 4, "test": 6}
"""Two of each patient, healthy and with a mass lesion in turn; in train and test one is unseen."""
UNSEEN = "dural_thickening"
HEALTHY = {"C1": "Yes.", "C2": "It's a normal brain", "C3": "Not applicable.", "O1": "No."}
MASS = {
    "C1": "No.",
    "C2": "It's mass lesion.",
    "C3": "Clinically relevant.",
    "O1": 'Yes,\tthe "bright" rim\nof the left side.',
}
ANSWERS: Mapping[str, Mapping[str, str]] = {
    "normal": HEALTHY,
    "mass_lesion": MASS,
    UNSEEN: {"C1": "No."},
}
"""Kind -> its answers; one holds a tab, quotes and a line's end."""


@dataclass(frozen=True)
class TinyVqa:
    """Shared by all tests: read it, never write into it."""

    data: Path
    folder: Path
    run: VqaRun
    corpus: Corpus
    fitted: FittedAnswerer


def write_tiny_corpus(root: Path, triples: Mapping[Split, int] = TRIPLES) -> Path:
    """A grey square, with a bright spot that map and reconstruction know of if there is one."""
    items: list[VqaItem] = []
    for split, count in triples.items():
        for index in range(count):
            kind = ("normal", "mass_lesion")[index % 2]
            items += _triple(root, split, index, UNSEEN if index == 3 else kind)
    write_corpus(root, items)
    return root


def _triple(root: Path, split: Split, index: int, kind: str) -> list[VqaItem]:
    random = np.random.default_rng([index, len(split)])
    healthy = np.full((SIDE, SIDE), 90) + random.integers(-8, 8, (SIDE, SIDE))
    spot = np.zeros((SIDE, SIDE), dtype=bool)
    if kind != "normal":
        row, column = random.integers(4, SIDE - 14, 2)
        spot[row : row + 10, column : column + 10] = True
    name = f"{kind}_{split}{index}"
    pictures = np.where(spot, 250, healthy), 255 * spot, healthy
    image, anomaly_map, reconstruction = (each.astype(np.uint8) for each in pictures)
    paths = write_pictures(root, name, (image, anomaly_map, reconstruction))
    return [
        VqaItem(
            f"{name}-{question}",
            *paths,
            QUESTIONS[question].text,
            answer,
            patient=f"{split}{index // 2}",
            category=kind,
            split=split,
        )
        for question, answer in ANSWERS[kind].items()
    ]


def tiny_vqa_run(**changes: Any) -> VqaRun:
    """`changes`: fields of the run's configuration."""
    fields = {"decoder": DECODER.model_copy(update={"positions": 96}), "max_tokens": 48, "beams": 2}
    return VqaRun(
        preset="tiny",
        source="tests",
        config=vqa_config(**{**fields, **changes}),
        data=VqaDataConfig(resize=SIDE + 4, crop=SIDE, jitter=0.1, joint_crop=True),
        fit=FitOptions(
            epochs=2,
            batch_size=6,
            learning_rate=3e-3,
            optimiser="adamw",
            schedule="warm_up_cosine",
            warm_up=0.2,
            weight_decay=0.05,
            patience=5,
            seed=3,
            accelerator="cpu",
        ),
    )


def make_tiny_vqa(root: Path) -> TinyVqa:
    """Writes corpus and run folder under `root`, through the real `fit`."""
    run, corpus = tiny_vqa_run(), read_corpus(write_tiny_corpus(root / "corpus"))
    fitted = fit(run, corpus, root / "run")
    assert fitted is not None
    return TinyVqa(root / "corpus", root / "run", run, corpus, fitted)
