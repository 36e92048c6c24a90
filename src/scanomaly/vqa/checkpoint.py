"""Run folders of answerers: everything that answers, pretrained parts included, and how to load it.

All parts are trained, so the folder needs no pretrained weights beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError

from scanomaly.backbones.language import TOKENIZER_FILE, load_tokenizer
from scanomaly.backbones.weights import licence_of
from scanomaly.config.experiment import MODEL_FILE
from scanomaly.config.run import backbone_names
from scanomaly.config.vqa import VqaConfig, VqaRun
from scanomaly.data.mivqa import VqaItem
from scanomaly.devices import resolve_device
from scanomaly.errors import CheckpointError, WeightsError
from scanomaly.files import write_text
from scanomaly.run_folder import fill_tensors, load_training, read_state, write_state
from scanomaly.vqa.base import Generated
from scanomaly.vqa.images import evaluation_images, read_pictures
from scanomaly.vqa.kq_former import KqFormerVqa

KIND = "vqa"
TOKENIZER = "tokenizer"
"""Folder of the tokeniser in a run folder."""


@dataclass(frozen=True)
class FittedAnswerer:
    """An answerer and the run that made it. splits: what each split did, in words.

    decoding: assignments that changed how run.yaml says that answers are found.
    """

    run: VqaRun
    answerer: KqFormerVqa
    splits: Mapping[str, str] = field(default_factory=dict)
    decoding: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", decoding: Sequence[str] = ()) -> Self:
        """Load a run folder. decoding: such as `config.beams=1`, in the place of run.yaml's.

        Raises CheckpointError, and ConfigError for assignments to any field but DECODING.
        """
        answerer, run = load_answerer(folder, decoding)
        record = load_training(folder)
        splits = {} if record is None else record.splits
        return cls(run, answerer.to(resolve_device(device)), splits, tuple(decoding))

    def answers(self, triples: Sequence[Sequence[VqaItem]]) -> list[Generated]:
        """An answer to each item, in order. triples: the items about each triple of pictures.

        Raises DataError for a picture or question that cannot be used.
        """
        data, device = self.run.data, self.answerer.device
        each = [
            evaluation_images(read_pictures(items[0].pictures, data), data) for items in triples
        ]
        image, anomaly_map, reconstruction = (
            torch.stack(list(batch)).to(device) for batch in zip(*each, strict=True)
        )
        return self.answerer.generate(
            (image, anomaly_map, reconstruction),
            [item.question for items in triples for item in items],
            triple=[index for index, items in enumerate(triples) for _ in items],
        )

    @property
    def weights(self) -> tuple[str, ...]:
        """Pretrained weights that training began from, with their licences."""
        return tuple(f"{name}: {licence_of(name)}" for name in backbone_names(self.run))


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write `tokenizer/`. Raises DiskError."""
    write_text(folder / TOKENIZER / TOKENIZER_FILE, tokenizer.backend_tokenizer.to_str())


def save_answerer(answerer: KqFormerVqa, run: VqaRun, folder: Path) -> None:
    """Write run.yaml and model.safetensors. Raises DiskError, leaving what was there."""
    sizes = answerer.without_weights().model_dump(mode="json")
    metadata = {"method": KIND, "config": json.dumps(sizes)}
    write_state(folder, answerer.fitted_state(), metadata)
    run.save(folder)


def load_answerer(folder: Path, decoding: Sequence[str] = ()) -> tuple[KqFormerVqa, VqaRun]:
    """Build the run's answerer and fill in its values, in fp32 on the CPU, ready to answer.

    decoding: as for `FittedAnswerer.load`. Raises CheckpointError for a folder without a run, a
    detector's run, and a newer or damaged file.
    """
    run = VqaRun.load(folder).decoding_as(decoding)
    file = folder / MODEL_FILE
    state, metadata = read_state(file)
    if metadata.get("method") != KIND:
        raise CheckpointError(
            f"{file} holds a {metadata.get('method')} and {folder / 'run.yaml'} describes an "
            "answerer; give each run a folder of its own."
        )
    config = _config(metadata, run, file)
    answerer = KqFormerVqa.build(config, read_tokenizer(folder), run.data)
    fill_tensors(answerer.fitted_state(), state, file)
    return answerer.eval(), run


def read_tokenizer(folder: Path) -> Any:
    """The tokeniser of a run folder. Raises CheckpointError."""
    try:
        return load_tokenizer(folder / TOKENIZER)
    except WeightsError as error:
        raise CheckpointError(f"{error} This one is part of the run: or fit again.") from error


def _config(metadata: Mapping[str, str], run: VqaRun, file: Path) -> VqaConfig:
    """What was trained, with random weights in the place of pretrained ones."""
    try:
        saved = VqaConfig.model_validate_json(metadata.get("config", ""))
    except ValidationError as error:
        raise CheckpointError(
            f"{file} is damaged (its metadata holds no configuration); restore it or fit again."
        ) from error
    return saved.model_copy(update=run.config.decoding)
