"""An answerer's published checkpoint to a run folder that `vqa evaluate` and `ask` take."""

from __future__ import annotations

from pathlib import Path

from scanomaly.backbones.language import build_tokenizer
from scanomaly.config.backbones import RANDOM_WEIGHTS
from scanomaly.config.vqa import VqaConfig, VqaRun
from scanomaly.importing.layout import Account, Layout, account, fill_in
from scanomaly.importing.published import Published
from scanomaly.importing.recognising import require_fit
from scanomaly.importing.records import Imported, record
from scanomaly.run_folder import save_training
from scanomaly.vqa.checkpoint import save_answerer, save_tokenizer
from scanomaly.vqa.kq_former import TIED, KqFormerVqa


def import_answerer(published: Published, layout: Layout, run: VqaRun, out: Path) -> Imported:
    """Build the run's answerer, fill it in, and write the folder.

    All parts were trained, so that of the pretrained weights only GPT-2's tokeniser is needed.
    Raises CheckpointError for a file that does not fit, WeightsError without the tokeniser.
    """
    require_fit(published, layout, run)
    tokenizer = build_tokenizer(run.config.decoder, ())
    answerer = KqFormerVqa.build(without_values(run.config), tokenizer, run.data)
    counted = fill_answerer(answerer, published, layout)
    save_tokenizer(tokenizer, out)
    save_answerer(answerer, run, out)
    made = record(published, layout, counted.reasons)
    save_training(made, out)
    return Imported(out, (), made.notes)


def without_values(config: VqaConfig) -> VqaConfig:
    """The same sizes from random values, which the file's take the place of."""
    random = {"weights": RANDOM_WEIGHTS}
    former = None if config.former is None else config.former.model_copy(update=random)
    parts = {
        "visual": config.visual.model_copy(update=random),
        "former": former,
        "decoder": config.decoder.model_copy(update=random),
    }
    return config.model_copy(update=parts)


def fill_answerer(answerer: KqFormerVqa, published: Published, layout: Layout) -> Account:
    """Fill in what a file holds. Raises CheckpointError."""
    fitted = answerer.fitted_state()
    tied = {TIED: answerer.decoder.lm_head.weight.detach()}
    counted = account(published, layout, answerer.config, fitted, tied)
    fill_in(counted, fitted, tied, published.file)
    return counted
