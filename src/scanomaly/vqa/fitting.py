"""VqaRun x corpus -> run folder: what `scanomaly vqa fit` does."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scanomaly.backbones.language import build_tokenizer
from scanomaly.backbones.weights import require_weights
from scanomaly.config.run import pretrained_networks
from scanomaly.config.vqa import VqaRun
from scanomaly.data.images import fit_window
from scanomaly.data.mivqa import Corpus, VqaItem
from scanomaly.errors import DataError
from scanomaly.questions import UNSEEN_TYPES, is_unseen
from scanomaly.run_folder import TrainingRecord, claim, save_training
from scanomaly.training import History, Objective, is_main_process, optimise
from scanomaly.vqa.checkpoint import (
    TOKENIZER,
    FittedAnswerer,
    read_tokenizer,
    save_answerer,
    save_tokenizer,
)
from scanomaly.vqa.items import VqaItems, by_triple
from scanomaly.vqa.kq_former import KqFormerVqa

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which items do what; test items have no part. validation: chooses the checkpoint."""

    train: tuple[VqaItem, ...]
    validation: tuple[VqaItem, ...]


def training_items(run: VqaRun, items: Sequence[VqaItem]) -> tuple[VqaItem, ...]:
    """Those that the run may learn from: without the unseen kinds in the open-set experiment."""
    left_out = run.data.exclude_unseen
    return tuple(item for item in items if not (left_out and is_unseen(item.category)))


def no_unseen(corpus: Corpus) -> str:
    """What is found in the place of the unseen kinds, in words."""
    found = sorted({item.category for item in corpus.items} - {""})
    return (
        f"no case is of an unseen kind ({', '.join(UNSEEN_TYPES)}); the categories are "
        f"{', '.join(found) or 'not given'}"
    )


def assign_roles(run: VqaRun, corpus: Corpus) -> Roles:
    """Raises DataError where a split that the run needs is empty, or nothing is to be left out."""
    if run.data.exclude_unseen and not any(is_unseen(item.category) for item in corpus.items):
        raise DataError(
            f"{corpus.name}: data.exclude_unseen leaves nothing out: {no_unseen(corpus)}. Spell "
            "them so, or set data.exclude_unseen=false."
        )
    train = training_items(run, corpus.train)
    validation = training_items(run, corpus.valid) if run.fit.patience is not None else ()
    if not train:
        raise DataError(
            f"{corpus.name}: expected questions to train on in split train, found none "
            f"({corpus.source}); add some."
        )
    if run.fit.patience is not None and not validation:
        raise DataError(
            f"{corpus.name}: fit.patience={run.fit.patience} chooses the checkpoint on split "
            f"valid, which is empty ({corpus.source}); add questions to it, or keep the last epoch "
            "with --set fit.patience=null."
        )
    return Roles(train, validation)


def fit(run: VqaRun, corpus: Corpus, out: Path, *, resume: bool = False) -> FittedAnswerer | None:
    """Train and save; returns the loaded answerer (None in a worker process).

    Raises FitError for a folder that holds another run, DataError for an unusable corpus,
    WeightsError for pretrained weights that are not here, and FitInterrupted after Ctrl-C, with
    everything needed to resume in the folder.
    """
    require_weights(pretrained_networks(run))
    roles = assign_roles(run, corpus)
    run = _resolved(run, roles)
    if is_main_process():
        claim(out, run, resume)
    torch.manual_seed(run.fit.seed)  # what the new weights start from
    answerer = KqFormerVqa.build(run.config, _tokenizer(run, roles, out, resume), run.data)
    if is_main_process():
        run.save(out)  # not before: without its weights a run has not begun
        save_tokenizer(answerer.tokenizer, out)
    logger.info(
        "training on %d questions about %d triples; %d trainable values",
        len(roles.train),
        len(by_triple(roles.train)),
        sum(p.numel() for p in answerer.parameters() if p.requires_grad),
    )
    started = time.monotonic()
    history = _train(answerer, run, roles, out, resume)
    if not is_main_process():
        return None
    save_answerer(answerer, run, out)
    save_training(_record(corpus, roles, history, time.monotonic() - started), out)
    return FittedAnswerer.load(out)


def _resolved(run: VqaRun, roles: Roles) -> VqaRun:
    """The run with all decided that the pictures decide, so that answering uses the same."""
    if run.data.window is not None:
        return run
    window = fit_window([path for pictures in by_triple(roles.train) for path in pictures])
    if window is None:
        return run
    logger.info("pictures are deeper than 8 bits: intensities %g to %g become 0 to 1", *window)
    return run.model_copy(update={"data": run.data.model_copy(update={"window": window})})


def _tokenizer(run: VqaRun, roles: Roles, out: Path, resume: bool) -> Any:
    """Words are learned once: a run that goes on keeps its own."""
    if resume and (out / TOKENIZER).is_dir():
        return read_tokenizer(out)
    texts = [f"{item.question} {item.answer}" for item in roles.train]
    return build_tokenizer(run.config.decoder, texts)


def _train(answerer: KqFormerVqa, run: VqaRun, roles: Roles, out: Path, resume: bool) -> History:
    def items(which: tuple[VqaItem, ...]) -> VqaItems:
        return VqaItems(which, run.data, answerer.packing, run.fit.seed)

    objective = Objective(
        model=answerer,
        loss=answerer.loss,
        train=items(roles.train),
        validation=items(roles.validation) if roles.validation else None,
        statistics=_statistics(answerer),
    )
    return optimise(objective, run.fit, out, resume=resume)


def _statistics(model: nn.Module) -> tuple[str, ...]:
    """Names of the running statistics of batch norms that are in training mode."""
    return tuple(
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for name, _ in module.named_buffers(recurse=False)
    )


def _record(corpus: Corpus, roles: Roles, history: History, seconds: float) -> TrainingRecord:
    chosen = history.checkpoint
    if chosen == "best validation loss":
        chosen += f" on {_words('valid', roles.validation)}"
    overlap = corpus.patient_overlap()
    return TrainingRecord(
        trained_on=f"{_words('train', roles.train)} of {corpus.name}",
        checkpoint=chosen,
        steps=history.steps,
        seconds=round(seconds, 1),
        train_loss=history.train_loss,
        validation_loss=history.validation_loss,
        images={"train": len(by_triple(roles.train)), "valid": len(by_triple(roles.validation))},
        notes=tuple(f"{len(p)} patients in both {a} and {b}" for (a, b), p in overlap.items()),
    )


def _words(split: str, items: Sequence[VqaItem]) -> str:
    return f"{split}: {len(items)} questions about {len(by_triple(items))} triples"
