"""A small CLIP from simulated images to files that open like any other CLIP."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

import tiny_pretraining
from scanomaly.backbones.clip import build_clip, tokenize
from scanomaly.backbones.weights import INVENTORY, fetch, find, locate
from scanomaly.config.backbones import ClipConfig
from scanomaly.data.foreign import paste
from scanomaly.errors import ConfigError, FitError, FitInterrupted, WeightsError
from scanomaly.presets import preset
from scanomaly.presets.offline import OFFLINE_PRESETS
from scanomaly.pretraining.contrastive import Contrast, count_values, make_network
from scanomaly.pretraining.distillation import Distillation
from scanomaly.pretraining.export import WEIGHTS
from scanomaly.pretraining.foreign import Foreign
from scanomaly.pretraining.pairs import Pairs
from scanomaly.pretraining.patches import RememberingDropout, patch_tokens
from scanomaly.pretraining.recipe import RECIPES, Recipe, recipe
from scanomaly.pretraining.retrieval import retrieval
from scanomaly.pretraining.run import pretrain
from scanomaly.pretraining.simulated import Part, series
from scanomaly.records import Draw
from tiny_pretraining import LEVELS, SIDE, STYLES, TINY, caption


def shorter(epochs: int) -> Recipe:
    return TINY.with_values({"fit.epochs": epochs})


def card_of(out: Path) -> str:
    """In one line."""
    return " ".join((out / TINY.name / "README.md").read_text().split())


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / WEIGHTS)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with the result of TINY."""
    out = tmp_path_factory.mktemp("tiny") / "out"
    assert pretrain(out, TINY, STYLES, caption) == out / TINY.name
    return out


@pytest.fixture(scope="module")
def pairs(pretrained: Path) -> Pairs:
    """The training pairs of TINY."""
    part = Part(TINY.fit.seed, 0, TINY.slices)
    made = [series(style, part, pretrained / "slices") for style in STYLES.values()]
    return Pairs(made, caption, TINY.fit.seed)


class TestWeights:
    def test_the_pairs_were_learned_and_the_card_says_how_well(self, pretrained):
        card = card_of(pretrained)
        found = re.findall(r"(?:image to text|text to image) ([\d.]+)%", card)
        assert len(found) == 2
        assert min(map(float, found)) > 60, found  # of 6 kinds: chance is 17, the style alone 33
        for words in (
            "192 simulated healthy images",
            ": Grey, Colour.",
            "(6 in all)",
            "tf_efficientnet_lite0.in1k",
        ):
            assert words in card
        assert "scanomaly pretrain tiny-clip --out DIR --epochs 20 --slices 96 --seed 3" in card

    def test_build_clip_finds_the_same_features(self, pretrained, pairs, monkeypatch):
        monkeypatch.setenv("SCANOMALY_WEIGHTS", str(pretrained))
        clip = build_clip(ClipConfig(name=TINY.name))
        network = make_network(TINY)
        network.load_state_dict(state_of(pretrained / TINY.name))
        network.eval()
        contrast = Contrast(network, TINY)
        batch = pairs.collate([pairs[Draw(None, index)] for index in (0, 1, 100, 101)])
        features = clip.vision.extract(batch.images(24), [clip.vision.depth - 1])
        assert features.pooled is not None
        with torch.no_grad():
            torch.testing.assert_close(
                F.normalize(features.pooled, dim=-1), contrast.image_features(batch.images(SIDE))
            )
            ids = F.pad(batch.ids, (0, 77 - batch.ids.shape[1]))
            torch.testing.assert_close(
                F.normalize(clip.text.encode(ids), dim=-1), contrast.text_features(batch.ids)
            )

    def test_open_clip_itself_opens_the_folder(self, pretrained):
        folder = pretrained / TINY.name
        network = open_clip.create_model(f"local-dir:{folder}").eval()
        ids = tokenize(["a grey scan at the low level."])
        clip = build_clip(ClipConfig(name="any/name", weights=str(folder)))
        with torch.no_grad():
            torch.testing.assert_close(network.encode_text(ids), clip.text.encode(ids))

    def test_the_values_are_halves(self, pretrained):
        assert {value.dtype for value in state_of(pretrained / TINY.name).values()} == {
            torch.float16
        }

    def test_another_run_gives_the_same_and_another_seed_does_not(self, tmp_path):
        states = []
        for name, seed in (("first", 3), ("again", 3), ("other", 4)):
            changed = shorter(1).with_values({"fit.seed": seed})
            folder = pretrain(tmp_path / name, changed, STYLES, caption)
            assert folder is not None
            states.append(state_of(folder))
        first, again, other = states
        assert all(torch.equal(value, again[name]) for name, value in first.items())
        assert not torch.equal(first["visual.proj"], other["visual.proj"])

    def test_words_that_no_caption_has_keep_their_embeddings(self, pretrained):
        (flaw,) = {int(i) for i in tokenize(["flaw"]).flatten()} - {0, 49406, 49407}
        before = make_network(TINY).token_embedding.weight[flaw].half()
        after = state_of(pretrained / TINY.name)["token_embedding.weight"][flaw]
        torch.testing.assert_close(after, before)


class TestInterruption:
    def test_a_resumed_run_is_the_uninterrupted_one(self, tmp_path, monkeypatch):
        run = shorter(3)
        whole = pretrain(tmp_path / "whole", run, STYLES, caption)
        losses, one = itertools.count(), Contrast.loss

        def stopping(contrast, batch):
            if next(losses) == 8:  # 6 steps an epoch
                raise KeyboardInterrupt
            return one(contrast, batch)

        with monkeypatch.context() as patched:
            patched.setattr(Contrast, "loss", stopping)
            with pytest.raises(FitInterrupted, match="epoch 2 of 3"):
                pretrain(tmp_path / "cut", run, STYLES, caption)
        resumed = pretrain(tmp_path / "cut", run, STYLES, caption, resume=True)
        assert whole is not None
        assert resumed is not None
        found = state_of(resumed)
        for name, value in state_of(whole).items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)

    def test_a_folder_is_not_taken_twice(self, pretrained, tmp_path):
        with pytest.raises(FitError, match="already holds a pretraining; add --resume"):
            pretrain(pretrained, TINY, STYLES, caption)
        with pytest.raises(FitError, match=r"with other options; resume with .*pretraining\.json"):
            pretrain(pretrained, shorter(2), STYLES, caption, resume=True)
        (tmp_path / "thesis.txt").touch()
        with pytest.raises(FitError, match="holds other files"):
            pretrain(tmp_path, TINY, STYLES, caption)

    def test_a_damaged_plan_is_named(self, tmp_path):
        (tmp_path / "pretraining.json").write_text('{"format": 2}')
        with pytest.raises(FitError, match=r"pretraining\.json is not the plan"):
            pretrain(tmp_path, TINY, STYLES, caption, resume=True)

    def test_minutes_become_epochs_that_resuming_keeps(self, tmp_path):
        one = shorter(7)
        pretrain(tmp_path, one, STYLES, caption, minutes=0)
        assert json.loads((tmp_path / "pretraining.json").read_text())["fit"]["epochs"] == 1
        assert pretrain(tmp_path, one, STYLES, caption, minutes=5, resume=True) is not None
        assert json.loads((tmp_path / "pretraining.json").read_text())["fit"]["epochs"] == 1


class TestPairs:
    def test_words_and_views_change_from_epoch_to_epoch_and_repeat(self, pairs):
        epochs = [pairs[Draw(epoch, 5)] for epoch in range(8)]
        assert {pair.caption for pair in epochs} == {
            "a grey scan at the high level.",
            "high part of a grey scan",
        }
        assert len({tuple(pair.view.flatten().tolist()) for pair in epochs}) == 8
        again = pairs[Draw(3, 5)]
        assert again.caption == epochs[3].caption
        assert torch.equal(again.view, epochs[3].view)
        assert torch.equal(again.light, epochs[3].light)

    def test_without_augmentation_an_image_stays_as_it_is(self, pairs):
        grey, colour = pairs[Draw(None, 0)], pairs[Draw(None, TINY.slices)]
        images = pairs.collate([grey, colour]).images(SIDE) * 255
        torch.testing.assert_close(
            images[0], grey.pixels.float().expand(3, -1, -1), atol=0.01, rtol=0
        )
        expected = colour.pixels.float().permute(2, 0, 1)
        torch.testing.assert_close(images[1], expected, atol=0.01, rtol=0)

    def test_sentences_are_cut_behind_the_last_end(self, pairs):
        batch = pairs.collate([pairs[Draw(None, index)] for index in range(4)])
        longest = int(
            tokenize([pairs[Draw(None, i)].caption for i in range(4)]).count_nonzero(1).max()
        )
        assert batch.ids.shape == (4, longest)

    def test_held_out_patients_are_others(self):
        train = Part(3, 0, 96)
        assert train.after == 12
        assert Part(3, 0, 97).after == 13

    def test_several_processes_make_the_same_images(self, tmp_path):
        part = Part(0, 2, 12)
        one, two = (
            series(STYLES["Colour"], part, tmp_path / str(workers), workers) for workers in (1, 2)
        )
        assert one.facts == two.facts
        assert np.array_equal(one.images, two.images)
        assert one.images.shape == (12, SIDE, SIDE, 3)

    def test_equal_facts_count_as_matches(self, pairs):
        network = make_network(TINY)
        contrast = Contrast(
            network.eval(), TINY.model_copy(update={"distillation": None, "foreign": None})
        )
        batch = pairs.collate([pairs[Draw(None, index)] for index in (0, 1, 3)])  # low middle low
        image, text = contrast.image_features(batch.images(SIDE)), contrast.text_features(batch.ids)
        logits = network.logit_scale.exp() * image @ text.T
        shares = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
        both = [-(shares * way.log_softmax(dim=1)).sum(dim=1).mean() for way in (logits, logits.T)]
        torch.testing.assert_close(contrast.loss(batch), sum(both) / 2)

    def test_retrieval_counts_pairs(self, pairs):
        contrast = Contrast(make_network(TINY), TINY)
        codes = torch.eye(2 * len(LEVELS))
        words = [int(tokenize([level])[0, 1]) for level in LEVELS]
        grey = int(tokenize(["grey"])[0, 1])

        def of_stripes(images):
            bright = images.unflatten(2, (3, 8)).unflatten(4, (3, 8))
            rows, columns = bright.mean((3, 4, 5)), bright.mean((2, 3, 5))
            is_grey = (images[:, 0] - images[:, 1]).abs().amax((1, 2)) < 1e-4
            return codes[torch.where(is_grey, rows[:, 0].argmax(1), 3 + columns[:, 0].argmax(1))]

        def of_words(ids):
            level = torch.stack([(ids == word).any(1) for word in words], 1).int().argmax(1)
            return codes[torch.where((ids == grey).any(1), level, 3 + level)]

        contrast.image_features, contrast.text_features = of_stripes, of_words
        assert retrieval(contrast, pairs, 0) == (1.0, 1.0, 6, 6)
        contrast.text_features = lambda ids: of_words(ids).roll(1, dims=1)
        assert retrieval(contrast, pairs, 0)[:2] == (0.0, 0.0)


class TestPatches:
    def test_kept_patches_are_those_it_names(self):
        torch.manual_seed(0)
        dropout = RememberingDropout(0.5)
        tokens = torch.randn(3, 1 + 9, 2)
        left = dropout(tokens)
        assert dropout.kept is not None
        assert left.shape == (3, 1 + 4, 2)
        for image in range(3):
            assert len(set(dropout.kept[image].tolist())) == 4
            assert torch.equal(left[image, 1:], tokens[image, 1:][dropout.kept[image]])
        assert torch.equal(left[:, 0], tokens[:, 0])
        assert torch.equal(dropout.eval()(tokens), tokens)
        assert dropout.kept is None


class TestDistillation:
    def test_targets_lie_where_the_teacher_saw_them_and_count_alike(self):
        assert TINY.distillation is not None
        distillation = Distillation(TINY.distillation, width=32, grid=3)
        images = torch.rand(8, 3, SIDE, SIDE)
        distillation.scale_to(images.split(4))
        targets = distillation.targets(images)
        assert targets.shape == (8, 9, 24 + 40)
        torch.testing.assert_close(targets.mean((0, 1)), torch.zeros(64), atol=1e-4, rtol=0)
        torch.testing.assert_close(targets.std((0, 1)), torch.ones(64), atol=0.02, rtol=0)
        kept = torch.tensor([[8, 0]]).expand(8, 2)
        tokens = {block: torch.randn(8, 9, 32) for block in TINY.distillation.blocks}
        some = {b: level.take_along_dim(kept[:, :, None], dim=1) for b, level in tokens.items()}
        whole = [
            [F.smooth_l1_loss(head(level)[:, [8, 0]], targets[:, [8, 0]], reduction="none")]
            for head, level in zip(distillation.heads, tokens.values(), strict=True)
        ]
        stages = [part.mean() for (loss,) in whole for part in (loss[..., :24], loss[..., 24:])]
        expected = TINY.distillation.weight * torch.stack(stages).mean()
        torch.testing.assert_close(distillation.loss(images, some, kept), expected)

    def test_patch_tokens_learn_to_tell_what_the_teacher_sees(self, pretrained, pairs):
        """A linear map of the tokens of other images; the same of an untrained network."""
        torch.manual_seed(1)
        assert TINY.distillation is not None
        teacher = Distillation(TINY.distillation, width=32, grid=3)
        batch = pairs.collate([pairs[Draw(None, index)] for index in range(0, 192, 3)])
        images = batch.images(SIDE)
        teacher.scale_to([images])
        left = []
        for state in (None, state_of(pretrained / TINY.name)):
            network = make_network(TINY).eval()
            if state is not None:
                network.load_state_dict(state)
            with torch.no_grad(), patch_tokens(network, (1,)) as tokens:
                network.encode_image((images - 0.5) / 0.5)
            seen, wanted = tokens[1].flatten(0, 1), teacher.targets(images).flatten(0, 1)
            seen = torch.cat([seen, torch.ones(len(seen), 1)], dim=1)
            half = len(seen) // 2
            found = torch.linalg.lstsq(seen[:half], wanted[:half]).solution
            left.append(float((seen[half:] @ found - wanted[half:]).square().mean()))
        assert left[1] < 0.9 * left[0], left

    def test_the_teacher_is_neither_trained_nor_saved(self):
        contrast = Contrast(make_network(TINY), TINY)
        assert contrast.distillation is not None
        named = dict(contrast.named_parameters())
        own = {name.split(".")[0] for name in named}
        assert own == {"network", "distillation", "foreign"}
        assert all("heads" in name for name in named if name.startswith("distillation"))


class TestForeign:
    @pytest.fixture
    def images(self, pairs: Pairs) -> torch.Tensor:
        batch = pairs.collate([pairs[Draw(None, index)] for index in range(0, 192, 3)])
        return F.interpolate(batch.images(SIDE), size=96)

    def test_the_loss_is_of_the_kept_patches(self):
        assert TINY.foreign is not None
        lesson = Foreign(TINY.foreign, width=32, grid=3)
        tokens = torch.randn(4, 9, 32)
        where = torch.rand(4, 9) < 0.5
        kept = torch.tensor([[8, 0, 3]]).expand(4, 3)
        some = {1: tokens[:, [8, 0, 3]]}
        logits = lesson.heads[0](tokens)[..., 0][:, [8, 0, 3]]
        chances, wanted = logits.sigmoid(), where[:, [8, 0, 3]]
        each = torch.where(wanted, -4 * chances.log(), -(1 - chances).log())
        torch.testing.assert_close(
            lesson.loss(some, kept, where), TINY.foreign.weight * each.mean()
        )

    def test_patches_are_foreign_where_enough_of_them_is(self, images):
        assert TINY.foreign is not None
        lesson = Foreign(TINY.foreign, width=32, grid=12)
        torch.manual_seed(0)
        made, where = lesson.paste(images)
        torch.manual_seed(0)
        again, changed = paste(images, TINY.foreign.regions)
        assert torch.equal(made, again)
        share = changed.unfold(2, 8, 8).unfold(3, 8, 8).mean(dim=(-1, -2))[:, 0].flatten(1)
        assert torch.equal(where, share > 0.3)
        assert where.any()


class TestRecipe:
    def test_the_file_of_the_real_one_stays_small(self):
        with torch.device("meta"):
            network = make_network(recipe("tiny-clip"))
        assert 17e6 < 2 * count_values(network) < 18e6

    def test_the_real_one_suits_both_methods_and_their_presets(self):
        sizes = recipe("tiny-clip").sizes
        assert sizes.embed_dim == sizes.text_cfg.width  # IQE-CLIP turns image features into tokens
        for name in OFFLINE_PRESETS:
            config = preset(name).config
            assert config.backbone.name == recipe("tiny-clip").name
            assert config.backbone.side % sizes.vision_cfg.patch_size == 0
            assert max(config.blocks) == sizes.vision_cfg.layers - 1
            heads = getattr(config, "queries", None) and config.queries.heads
            assert sizes.embed_dim % (heads or 1) == 0

    def test_unknown_names_and_values_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="no recipe 'big-clip'; there are tiny-clip"):
            recipe("big-clip")
        with pytest.raises(ConfigError, match=r"slices: .*greater than 0"):
            TINY.with_values({"slices": 0})
        with pytest.raises(ConfigError, match=r"fit: .*multiple of accumulate x devices"):
            TINY.with_values({"fit.devices": 3})
        unknown = TINY.with_values({"styles": ("Grey", "Sepia")})
        with pytest.raises(ConfigError, match="styles must be some of Grey, Colour; got Sepia"):
            pretrain(tmp_path, unknown, STYLES, caption)

    def test_a_missing_asset_says_what_to_run(self, monkeypatch, tmp_path):
        name = recipe("tiny-clip").name
        monkeypatch.setattr("scanomaly.backbones.weights.places._in_package", lambda entry: None)
        assert find(name) is None
        with pytest.raises(WeightsError, match="`scanomaly pretrain tiny-clip --out DIR`") as found:
            locate(name)
        assert "huggingface" not in str(found.value)
        with pytest.raises(WeightsError, match=r"on no hub; make it with `scanomaly pretrain"):
            fetch(name, tmp_path)

    def test_the_inventory_points_into_the_package(self):
        assert INVENTORY[recipe("tiny-clip").name].package == (
            "scanomaly",
            f"assets/tiny-clip/{WEIGHTS}",
        )


class TestVerb:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch):
        monkeypatch.setitem(RECIPES, "tiny-clip", lambda: shorter(1))
        monkeypatch.setattr("scanomaly.data.phantom.styles.STYLES", STYLES)
        monkeypatch.setattr("scanomaly.data.phantom.captions.caption", caption)

    def test_weights_that_verify_and_a_card(self, command, tmp_path):
        out = tmp_path / "out"
        small = ("--slices", 40, "--seed", 5, "--device", "cpu")
        done = command("pretrain", "tiny-clip", "--out", out, "--epochs", 2, *small)
        assert done.code == 0, done.err
        assert f"pretrained: {out / TINY.name}; model card: " in done.out
        assert "--epochs 2 --slices 40 --seed 5 --devices 1`" in card_of(out)
        done = command("weights", "verify", out)
        assert done.out == f"{out / TINY.name / WEIGHTS}: ok\n"

    def test_what_cannot_be(self, command, tmp_path):
        both = ("--minutes", 5, "--epochs", 2)
        done = command("pretrain", "tiny-clip", "--out", tmp_path, *both)
        assert "expected --minutes or --epochs, got both" in done.error
        assert "there are tiny-clip" in command("pretrain", "huge", "--out", tmp_path).error


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    """As their features tell: biases of keys have no gradient, and Adam moves them by its noise."""
    one = tiny_pretraining.main(tmp_path / "one", devices=1)
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    script = [sys.executable, tiny_pretraining.__file__, str(tmp_path / "two"), "2"]
    done = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    part = Part(TINY.fit.seed, 0, TINY.slices)
    made = [series(style, part, one.parents[1] / "slices") for style in STYLES.values()]
    pairs = Pairs(made, caption, 0)
    batch = pairs.collate([pairs[Draw(None, index)] for index in range(0, len(pairs), 10)])
    untrained, alone, both = [], [], []
    for found, folder in ((untrained, None), (alone, one), (both, tmp_path / "two" / TINY.name)):
        network = make_network(TINY).eval()
        if folder is not None:
            network.load_state_dict(state_of(folder))
        contrast = Contrast(network, TINY)
        with torch.no_grad():
            found += [
                contrast.image_features(batch.images(SIDE)),
                contrast.text_features(batch.ids),
            ]
    for before, expected, value in zip(untrained, alone, both, strict=True):
        assert (before - expected).abs().max() > 0.05
        torch.testing.assert_close(value, expected, rtol=0, atol=5e-3)
