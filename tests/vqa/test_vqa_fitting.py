"""VqaRun x corpus -> run folder: who trains, who chooses, and what a stopped run leaves."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from scanomaly.config.vqa import VqaRun
from scanomaly.data.mivqa import read_corpus
from scanomaly.errors import DataError, FitError, FitInterrupted, WeightsError
from scanomaly.presets import vqa_preset
from scanomaly.run_folder import load_training, read_state
from scanomaly.training import History
from scanomaly.vqa import fitting
from scanomaly.vqa.checkpoint import FittedAnswerer
from scanomaly.vqa.fitting import assign_roles, fit
from scanomaly.vqa.kq_former import KqFormerVqa
from vqa.tiny_vqa import UNSEEN, TinyVqa, tiny_vqa_run, write_tiny_corpus


@pytest.fixture
def untrained(monkeypatch):
    """`fit` without its gradient loop; gives the objective of each call."""
    objectives = []

    def pretend(objective, options, run_dir, *, resume=False):
        objectives.append(objective)
        return History((1.0,), (), 1, "last epoch")

    monkeypatch.setattr(fitting, "optimise", pretend)
    return objectives


class TestRoles:
    """Which items do what."""

    def test_train_trains_valid_chooses_test_has_no_part(self, tiny_vqa: TinyVqa):
        roles = assign_roles(tiny_vqa.run, tiny_vqa.corpus)
        assert roles.train == tiny_vqa.corpus.train
        assert roles.validation == tiny_vqa.corpus.valid

    def test_the_open_set_run_leaves_unseen_kinds_out(self, tiny_vqa: TinyVqa):
        run = tiny_vqa.run.with_overrides(["data.exclude_unseen=true"])
        roles = assign_roles(run, tiny_vqa.corpus)
        assert len(tiny_vqa.corpus.train) - len(roles.train) == 1
        assert len(tiny_vqa.corpus.valid) - len(roles.validation) == 1
        assert not [i for i in (*roles.train, *roles.validation) if "dural" in i.category]

    def test_kinds_that_are_spelled_otherwise_are_not_silently_kept(self, tiny_vqa: TinyVqa):
        run = tiny_vqa.run.with_overrides(["data.exclude_unseen=true"])
        corpus = tiny_vqa.corpus
        other = replace(
            corpus,
            **{
                split: tuple(
                    replace(i, category="dura" if i.category == UNSEEN else i.category)
                    for i in corpus.split(split)
                )
                for split in ("train", "valid", "test")
            },
        )
        message = (
            r"corpus: data\.exclude_unseen leaves nothing out: .*dural thickening.*"
            r"categories are dura, mass_lesion, normal\. .*exclude_unseen=false"
        )
        with pytest.raises(DataError, match=message):
            assign_roles(run, other)

    def test_without_patience_nothing_chooses(self, tiny_vqa: TinyVqa):
        run = tiny_vqa.run.with_overrides(["fit.patience=null"])
        assert assign_roles(run, replace(tiny_vqa.corpus, valid=())).validation == ()

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ("train", r"corpus: expected questions to train on in split train, found none \(trip"),
            ("valid", r"corpus: fit\.patience=5 chooses .* split valid, which is empty .*=null"),
        ],
    )
    def test_an_empty_split(self, tiny_vqa: TinyVqa, split, message):
        with pytest.raises(DataError, match=message):
            assign_roles(tiny_vqa.run, replace(tiny_vqa.corpus, **{split: ()}))


class TestFolder:
    """What a fit leaves, and which folders it refuses."""

    def test_files_and_record(self, tiny_vqa: TinyVqa):
        names = {path.name for path in tiny_vqa.folder.iterdir()}
        wanted = {"run.yaml", "model.safetensors", "training.json", "tokenizer"}
        assert wanted | {"checkpoints", "logs"} == names
        record = load_training(tiny_vqa.folder)
        assert record.trained_on == "train: 29 questions about 8 triples of corpus"
        assert record.checkpoint == "best validation loss on valid: 13 questions about 4 triples"
        assert record.images == {"train": 8, "valid": 4}
        assert record.steps == 2 * (29 // 6)
        assert record.train_loss[1] < record.train_loss[0]
        assert set(tiny_vqa.fitted.splits) == {"trained", "chose the checkpoint"}

    def test_what_is_returned_answers_as_what_is_loaded(self, tiny_vqa: TinyVqa):
        items = [tiny_vqa.corpus.test[:4]]
        expected = tiny_vqa.fitted.answers(items)
        assert FittedAnswerer.load(tiny_vqa.folder).answers(items) == expected

    def test_words_are_learned_from_training_items_alone(self, tiny_vqa, tmp_path, untrained):
        test = [replace(item, answer="zebra") for item in tiny_vqa.corpus.test]
        corpus = replace(tiny_vqa.corpus, test=tuple(test))
        fitted = fit(tiny_vqa.run, corpus, tmp_path / "run")
        assert "zebra" not in " ".join(fitted.answerer.tokenizer.get_vocab())

    def test_a_folder_with_another_run(self, tiny_vqa: TinyVqa, run_copy):
        other = tiny_vqa.run.with_overrides(["config.beams=1"])
        for folder in (tiny_vqa.folder, run_copy):
            with pytest.raises(FitError, match="already holds a run; add --resume"):
                fit(tiny_vqa.run, tiny_vqa.corpus, folder)
        with pytest.raises(FitError, match="holds a run with other options"):
            fit(other, tiny_vqa.corpus, tiny_vqa.folder, resume=True)

    def test_missing_weights_claim_no_folder(self, tiny_vqa: TinyVqa, tmp_path, monkeypatch):
        monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path / "none"))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
        run = vqa_preset("kqf-concat-vit")
        names = r"deit_base_patch16_224\.\S+ pritamdeka/BioBert-PubMed200kRCT openai-community/gpt2"
        message = rf"^3 weights are not on this machine .* `scanomaly weights fetch {names} --to "
        with pytest.raises(WeightsError, match=message):
            fit(run, tiny_vqa.corpus, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_deep_pictures_get_a_window_from_training_pictures(self, tmp_path, untrained):
        corpus = read_corpus(write_tiny_corpus(tmp_path / "corpus"))
        for path in (corpus.root / "image").iterdir():
            deep = np.asarray(Image.open(path)).astype(np.uint16) * 100
            Image.fromarray(deep).save(path)
        fitted = fit(tiny_vqa_run(), corpus, tmp_path / "run")
        low, high = fitted.run.data.window
        assert (low, high) == (0, 25500)
        assert len(fitted.answers([corpus.test[:2]])) == 2


class TestTraining:
    """What the loop is given, and how it stops and goes on."""

    def test_statistics_of_the_head_are_kept_with_its_weights(self, tiny_vqa, tmp_path, untrained):
        fitted = fit(tiny_vqa.run, tiny_vqa.corpus, tmp_path / "run")
        (objective,) = untrained
        named = dict(objective.model.named_buffers())
        assert len(objective.statistics) == 6
        assert all("head" in name and name in named for name in objective.statistics)
        assert isinstance(fitted.answerer, KqFormerVqa)

    def test_a_frozen_encoder_is_not_trained(self, tiny_vqa, tmp_path, untrained):
        run = tiny_vqa.run.with_overrides(["config.visual.frozen=true"])
        fit(run, tiny_vqa.corpus, tmp_path / "run")
        model: nn.Module = untrained[0].model
        moved = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert moved == {"fusion", "decoder"}

    def test_fewer_items_than_a_batch_leave_nothing_in_the_way(self, tiny_vqa, tmp_path):
        run = tiny_vqa.run.with_overrides(["fit.batch_size=48"])
        with pytest.raises(FitError, match="29 training items are fewer than one batch of 48; use"):
            fit(run, tiny_vqa.corpus, tmp_path / "run")
        run = tiny_vqa.run.with_overrides(["fit.epochs=1"])
        fit(run, tiny_vqa.corpus, tmp_path / "run")
        assert VqaRun.load(tmp_path / "run") == run

    def test_a_batch_of_one_trains(self, tiny_vqa: TinyVqa, tmp_path):
        run = tiny_vqa.run.with_overrides(["fit.batch_size=1", "fit.epochs=1", "fit.patience=null"])
        corpus = replace(tiny_vqa.corpus, train=tiny_vqa.corpus.train[:3])
        fitted = fit(run, corpus, tmp_path / "run")
        assert load_training(tmp_path / "run").steps == 3
        assert fitted.answers([corpus.test[:1]])[0].log_probability < 0

    def test_a_stopped_run_goes_on_to_the_same_weights(self, tiny_vqa, tmp_path, monkeypatch):
        """Ctrl-C in the second epoch; whole triples as items, so that both ways are trained."""
        run = tiny_vqa.run.with_overrides(["data.items=triples", "fit.batch_size=4"])
        fit(run, tiny_vqa.corpus, tmp_path / "whole")
        asked, loss = [], KqFormerVqa.loss

        def stops(self, batch):
            asked.append(self.training)
            if asked.count(True) == 4:
                raise KeyboardInterrupt
            return loss(self, batch)

        monkeypatch.setattr(KqFormerVqa, "loss", stops)
        with pytest.raises(FitInterrupted, match=r"in epoch 2 of 2; .* --resume goes on"):
            fit(run, tiny_vqa.corpus, tmp_path / "run")
        assert not (tmp_path / "run" / "model.safetensors").exists()
        monkeypatch.setattr(KqFormerVqa, "loss", loss)
        fit(run, tiny_vqa.corpus, tmp_path / "run", resume=True)
        expected = read_state(tmp_path / "whole" / "model.safetensors")[0]
        found = read_state(tmp_path / "run" / "model.safetensors")[0]
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)

    def test_a_run_without_its_tokenizer_learns_the_same_words(self, tiny_vqa, tmp_path, untrained):
        folder = shutil.copytree(tiny_vqa.folder, tmp_path / "run")
        words = (folder / "tokenizer" / "tokenizer.json").read_text()
        shutil.rmtree(folder / "tokenizer")
        fit(tiny_vqa.run, tiny_vqa.corpus, folder, resume=True)
        assert (folder / "tokenizer" / "tokenizer.json").read_text() == words
