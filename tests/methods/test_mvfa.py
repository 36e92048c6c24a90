"""MVFA: the published scores, what each image teaches, the memory bank, the paper's forms."""

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor

from golden_names_mvfa import renamed_checkpoint
from golden_parity import assert_parity
from golden_parity import weights as golden_weights
from methods.tiny_detectors import (
    SIDE,
    LabelledImages,
    batch_of,
    few_shot_mvfa,
    random_images,
    zero_shot_mvfa,
)
from scanomaly.backbones.clip import Clip, ClipText, ClipVision
from scanomaly.checkpoint import load_detector, save_detector
from scanomaly.config.backbones import ClipConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.mvfa import AdapterConfig, LossConfig, MVFAConfig, ScoreConfig
from scanomaly.config.run import Run
from scanomaly.errors import ConfigError, FitError
from scanomaly.methods import MVFA
from scanomaly.methods.mvfa import Lesson, Levels, owner_of
from scanomaly.nn.patch_losses import dice, focal, level_map, patch_scores, text_logits
from scanomaly.records import Batch, Draw
from scanomaly.training import Criterion

PLAIN = ((0.0,) * 3, (1.0,) * 3)
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
VISION = {"width": 16, "head_width": 8, "mlp_ratio": 2.0}
LEVELS = range(4)
OPTIONS = FitOptions(
    epochs=2, batch_size=4, learning_rate=1e-2, schedule="constant", seed=3, accelerator="cpu"
)


def golden_detector(side: int, patch: int, layers: int, setting: str = "few_shot") -> MVFA:
    """The golden files' sizes; features are 12 wide."""
    sizes = {**VISION, "image_size": side, "patch_size": patch, "layers": layers}
    network = open_clip.CLIP(12, sizes, TEXT)
    clip = Clip(ClipVision(network.visual, *PLAIN), ClipText(network))
    blocks = tuple(range(layers // 4 - 1, layers, layers // 4))
    backbone = ClipConfig(side=side)
    config = MVFAConfig(object="Brain", backbone=backbone, blocks=blocks, setting=setting)
    return MVFA(config, clip)


def test_the_published_image_path(golden):
    table = load_file(golden("mvfa_image_path.safetensors"))
    detector = golden_detector(side=30, patch=7, layers=24)
    assert detector.config.blocks == (5, 11, 17, 23)
    state = golden_weights(table)
    frozen = {name: value for name, value in state.items() if "_adapters." not in name}
    detector.vision.network.load_state_dict(frozen)
    heads = {head: golden_weights(state, f"{head}.") for head in ("seg_adapters", "det_adapters")}
    detector.adapters.load_state_dict(renamed_checkpoint(heads))
    image = table["in.image"].expand(2, -1, -1, -1)
    with torch.no_grad():
        found = detector.levels(detector.first_tokens(image))
    for head in ("seg", "det"):
        for level in LEVELS:
            for tokens in found[head][level].split(1):
                assert_parity(tokens, table[f"out.{head}{level}"], 1e-4)


def golden_levels(table: dict[str, Tensor]) -> Levels:
    return {head: [table[f"in.{head}{level}"] for level in LEVELS] for head in ("seg", "det")}


@pytest.mark.parametrize(
    ("setting", "localises", "name", "bank"),
    [
        ("few_shot", True, "few_seg", "seg"),
        ("few_shot", False, "few_cls", "det"),
        ("zero_shot", True, "zero", None),
    ],
)
def test_published_scores(golden, setting, localises, name, bank):
    """The paper protocol: branches are scaled by their extremes over the test set."""
    table = load_file(golden("mvfa_test_scores.safetensors"))
    detector = golden_detector(side=20, patch=5, layers=4, setting=setting)
    detector.localises.fill_(localises)
    for level, memory in enumerate(detector.banks):
        tokens = table[f"in.mem_{bank}{level}"].unflatten(0, (3, 17))
        memory.remember(tokens, torch.arange(3))
    raw = detector.branches_of(golden_levels(table), table["in.text"])
    detector.branch_ranges.copy_(detector.extremes([raw]))
    prediction = detector.fuse(raw)
    assert_parity(prediction.score, table[f"out.{name}.image"], 1e-4)
    if f"out.{name}.pixel" in table:
        assert_parity(prediction.anomaly_map[:, 0], table[f"out.{name}.pixel"], 1e-4)
    area = roc_auc_score(table["in.labels"].numpy(), prediction.score.numpy())
    if localises:
        masks = table["in.masks"].flatten().numpy()
        area += roc_auc_score(masks, prediction.anomaly_map.flatten().numpy())
    wanted = table[f"f64.out.{name}.{'sum_auc' if localises else 'auc'}"].item()
    assert area == pytest.approx(wanted, abs=1e-5)


@pytest.fixture
def few(weights) -> MVFA:
    torch.manual_seed(0)
    return MVFA.build(few_shot_mvfa(weights))


@pytest.fixture
def zero(weights) -> MVFA:
    torch.manual_seed(0)
    return MVFA.build(zero_shot_mvfa(weights).model_copy(update={"adapters": AdapterConfig()}))


def mixed(detector: MVFA, known: list[bool]) -> Lesson:
    """Four images of two data sets, some without masks."""
    data = LabelledImages(random_images(4))
    batch = data.collate([0, 1, 2, 3])
    return detector.lesson(replace(batch, has_mask=torch.tensor(known)))


def one_of(lesson: Lesson, index: int) -> Lesson:
    return Lesson(*(part[index : index + 1] for part in lesson))


def gradients(detector: MVFA, loss: Tensor) -> dict[str, Tensor | None]:
    detector.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in detector.adapters.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("known", [[True] * 4, [True, False, False, True], [False] * 4])
def test_a_batch_teaches_the_mean_of_its_images(zero, known):
    """Published: batches of one image, label-only ones stepping the detection head alone."""
    lesson = mixed(zero, known)
    together = gradients(zero, zero.loss(lesson))
    alone = [gradients(zero, zero.loss(one_of(lesson, index))) for index in range(4)]
    for name, gradient in together.items():
        found = [one[name] for one in alone if one[name] is not None]
        if gradient is None:
            assert not found
            continue
        torch.testing.assert_close(gradient, sum(found) / 4, rtol=1e-3, atol=1e-6)
    silent = {name for name, gradient in together.items() if gradient is None}
    segmentation = {name for name in together if name.startswith("heads.seg")}
    assert silent == (set() if any(known) else segmentation)


def test_the_loss_is_the_published_sum(few):
    lesson = mixed(few, [True] * 4)
    text = few.texts.stacked()[0]
    levels = few.levels(lesson.tokens)
    expected = torch.zeros(())
    for seg, det in zip(levels["seg"], levels["det"], strict=True):
        maps = level_map(text_logits(seg[:, 1:], text, 100.0), (4, 4), SIDE)
        score = patch_scores(text_logits(det[:, 1:], text, 100.0))
        bce = torch.nn.functional.binary_cross_entropy_with_logits(score, lesson.label.float())
        expected = expected + focal(maps, lesson.mask) + dice(maps[:, 1], lesson.mask) + bce
    torch.testing.assert_close(few.loss(lesson), expected)


def test_only_what_comes_after_the_first_adapter_is_in_the_graph(few, monkeypatch):
    started = []
    run = few.vision.run
    monkeypatch.setattr(
        few.vision,
        "run",
        lambda *args, **given: started.append(given.get("first", 0)) or run(*args, **given),
    )
    lesson = mixed(few, [True] * 4)
    assert not lesson.tokens.requires_grad
    started.clear()
    few.loss(lesson).backward()
    assert started == [2], "blocks 0 and 1 are not run again"
    assert few.adapters.heads["seg"][0].up.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in few.vision.parameters())


def test_zero_shot_compares_each_image_with_the_words_of_its_data_set(zero, few):
    lesson = mixed(zero, [True] * 4)
    assert lesson.words.tolist() == [0, 0, 1, 1]
    brain, liver = zero.texts.stacked()
    assert not torch.equal(brain, liver)
    assert mixed(few, [True] * 4).words.tolist() == [0] * 4, "few-shot: those of the target"
    unknown = replace(LabelledImages(random_images(4)).collate([2]), datasets=())
    assert zero.lesson(unknown).words.tolist() == [0], "no data set told: those of the target"


def fitted(detector: MVFA, folder: Path, data: object = None, **options: object) -> MVFA:
    data = data or LabelledImages(random_images(8))
    chosen = FitOptions.model_validate({**OPTIONS.model_dump(), **options})
    detector.fit(data, options=chosen, run_dir=folder)
    return detector


class Copies(LabelledImages):
    """Every image twice: the second block is mirrored and keeps the ids."""

    def __len__(self) -> int:
        return 2 * len(self.image)

    def collate(self, items: list[int]) -> Batch:
        batch = super().collate([index % len(self.image) for index in items])
        second = torch.tensor([index >= len(self.image) for index in items])
        image = torch.where(second[:, None, None, None], batch.image.flip(3), batch.image)
        return replace(batch, image=image)


def test_the_bank_holds_every_copy_of_the_normal_images(few, tmp_path):
    data = Copies(random_images(4))
    fitted(few, tmp_path, data)
    normal = [owner_of("image 0"), owner_of("image 2")]
    for index, bank in enumerate(few.banks):
        assert sorted(bank.owner.tolist()) == sorted([*normal, *normal])
        assert bank.tokens.shape == (4, 17, 16)
        with torch.no_grad():
            tokens = few.levels(few.first_tokens(data.collate([0]).image))["seg"][index]
        torch.testing.assert_close(
            bank.tokens[0], torch.nn.functional.normalize(tokens[0], dim=-1), rtol=0, atol=1e-5
        )


def test_a_training_image_is_judged_without_itself_and_its_copies(few, tmp_path):
    data = Copies(random_images(4))
    fitted(few, tmp_path, data)
    batch = data.collate([0, 1])
    known = few.raw_branches(batch)["few_map"]
    apart = few.raw_branches(batch, held_out=True)["few_map"]
    assert known[0].abs().max() < 1e-5
    assert apart[0].min() > 1e-4
    assert torch.equal(known[1], apart[1]), "an abnormal image was never in the bank"
    for bank in few.banks:
        keep = bank.owner != owner_of("image 0")
        bank.remember(bank.tokens[keep], bank.owner[keep])
    torch.testing.assert_close(few.raw_branches(batch)["few_map"][0], apart[0])
    held = few.predict_held_out(batch_of(data.collate([0]).image)).score
    assert torch.equal(held, few.predict(batch_of(data.collate([0]).image)).score)


def test_ranges_are_those_of_training_images_left_out_in_turn(few, tmp_path):
    data = LabelledImages(random_images(8))
    fitted(few, tmp_path, data)
    batch = data.collate(list(range(8)))
    raw = few.raw_branches(batch, held_out=True)
    for name, (low, high) in zip(few.branches, few.branch_ranges.tolist(), strict=True):
        assert low == pytest.approx(raw[name].min().item(), abs=1e-5)
        assert high == pytest.approx(raw[name].max().item(), abs=1e-5)
    assert few.raw_branches(batch)["few_map"].min() < few.branch_ranges[2, 0] - 1e-4


def test_zero_shot_ranges_come_from_each_images_own_words(zero, tmp_path):
    data = LabelledImages(random_images(8))
    fitted(zero, tmp_path, data)
    with torch.no_grad():
        lesson = zero.lesson(data.collate(list(range(8))))
        own = zero.extremes([zero.lesson_branches(lesson)])
    torch.testing.assert_close(zero.branch_ranges, own)
    target = zero.ranges_of([data.collate(list(range(8)))])
    assert not torch.allclose(zero.branch_ranges, target)


def test_a_cached_training_is_the_same_training(few, weights, tmp_path):
    data = Copies(random_images(4))
    plain = fitted(few, tmp_path / "plain", data).fitted_state()
    torch.manual_seed(0)
    other = MVFA.build(few_shot_mvfa(weights))
    cached = fitted(other, tmp_path / "cached", data, cache_features=True).fitted_state()
    assert plain.keys() == cached.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(cached[name], tensor, rtol=0, atol=1e-5, msg=name)
    assert not (tmp_path / "cached" / "cache").exists()


def test_a_saved_bank_comes_back_whatever_its_size(few, tmp_path):
    fitted(few, tmp_path / "fit", Copies(random_images(6)))
    run = Run(preset="tiny", source="tests", method="mvfa", config=few.config)
    save_detector(few, run, tmp_path)
    loaded, _ = load_detector(tmp_path)
    assert isinstance(loaded, MVFA)
    batch = Copies(random_images(6)).collate([0, 1])
    assert torch.equal(loaded.predict(batch).score, few.predict(batch).score)
    held_out = loaded.predict_held_out(batch).score
    assert torch.equal(held_out, few.predict_held_out(batch).score)
    assert not torch.equal(held_out, loaded.predict(batch).score)


def test_a_loaded_detector_needs_no_text_tower(few, tmp_path, monkeypatch):
    fitted(few, tmp_path)
    image = batch_of(random_images(1, seed=5))
    expected = few.predict(image).score
    monkeypatch.setattr(few.text, "encode", None)
    assert torch.equal(few.predict(image).score, expected)


class LabelOnly(LabelledImages):
    def collate(self, items: list[int]) -> Batch:
        return replace(super().collate(items), mask=None)


def test_a_label_only_set_is_scored_by_its_detection_tokens(few, tmp_path):
    before = {name: p.clone() for name, p in few.adapters.named_parameters()}
    fitted(few, tmp_path, LabelOnly(random_images(8)))
    assert not few.localises
    for name, parameter in few.adapters.named_parameters():
        still = "heads.seg" in name or not parameter.requires_grad
        assert torch.equal(parameter, before[name]) == still, name
    batch = batch_of(random_images(3, seed=2))
    with torch.no_grad():
        levels = few.levels(few.first_tokens(batch.image))
        tokens = levels["det"][0]
        distances = few.banks[0].distances(tokens[:, 1:])
    raw = few.raw_branches(batch)
    grid = distances.unflatten(1, (4, 4))[:, None]
    fine = torch.nn.functional.interpolate(grid, (SIDE, SIDE), mode="bilinear", align_corners=True)
    torch.testing.assert_close(raw["few_block_1"], fine)
    torch.testing.assert_close(raw["few_score"], raw["few_map"].mean(dim=(1, 2, 3)))
    prediction, parts = few.predict(batch), few.predict(batch).parts
    torch.testing.assert_close(
        prediction.score, 0.5 * parts["zero_score"] + 0.5 * parts["few_score"]
    )


def test_parts_are_both_branches_and_every_level(few, tmp_path):
    fitted(few, tmp_path)
    prediction = few.predict(batch_of(random_images(2, seed=3)))
    parts, raw = prediction.parts, few.raw_branches(batch_of(random_images(2, seed=3)))
    assert parts.keys() == {
        *("zero_map", "zero_score", "few_map", "few_score"),
        *("zero_block_1", "zero_block_3", "few_block_1", "few_block_3"),
    }
    torch.testing.assert_close(
        prediction.anomaly_map, 0.5 * parts["zero_map"] + 0.5 * parts["few_map"]
    )
    torch.testing.assert_close(prediction.score, prediction.anomaly_map.amax(dim=(1, 2, 3)))
    for branch in ("zero", "few"):
        levels = raw[f"{branch}_block_1"] + raw[f"{branch}_block_3"]
        torch.testing.assert_close(raw[f"{branch}_map"], levels / 2)


def test_embeddings_are_those_of_clip_alone_and_the_bottlenecks(few, tmp_path):
    fitted(few, tmp_path)
    batch = batch_of(random_images(2, seed=3))
    found = {(e.row, e.column): e.vectors for e in few.embeddings(batch)}
    with torch.no_grad():
        plain = few.vision.extract(batch.image, (1, 3)).patches
        levels = few.levels(few.first_tokens(batch.image))
    for index, column in enumerate(("block 1", "block 3")):
        assert torch.equal(found["frozen CLIP", column], plain[index])
        for head, row in (("seg", "adapted, segmentation"), ("det", "adapted, detection")):
            assert torch.equal(found[row, column], levels[head][index][:, 1:])
    assert len(found) == 6
    with torch.no_grad():
        mixed = few.vision.run(few.first_tokens(batch.image), (3,), first=2).patches[0]
    assert torch.equal(found["frozen CLIP", "block 3"], mixed), "no adapter in between"


def variant(weights: object, tmp_path: Path, **fields: object) -> MVFA:
    torch.manual_seed(0)
    config = few_shot_mvfa(weights)
    return fitted(MVFA.build(config.model_copy(update=fields)), tmp_path)


def test_the_papers_few_shot_score_mixes_the_maxima_over_patches(weights, tmp_path):
    detector = variant(weights, tmp_path, score=ScoreConfig(few_shot="paper", few_weight=0.25))
    batch = batch_of(random_images(2, seed=3))
    raw = detector.raw_branches(batch)
    with torch.no_grad():
        levels = detector.levels(detector.first_tokens(batch.image))
        few = [b.distances(t[:, 1:]) for b, t in zip(detector.banks, levels["seg"], strict=True)]
        text = detector.text_features
        zero = [patch_scores(text_logits(t[:, 1:], text, 100.0), "max") for t in levels["det"]]
    torch.testing.assert_close(raw["few_score"], (sum(few) / 2).amax(dim=1))
    torch.testing.assert_close(raw["zero_score"], sum(zero) / 2)
    prediction = detector.predict(batch)
    parts = prediction.parts
    mixed_score = 0.75 * parts["zero_score"] + 0.25 * parts["few_score"]
    torch.testing.assert_close(prediction.score, mixed_score)
    mixed_map = 0.75 * parts["zero_map"] + 0.25 * parts["few_map"]
    torch.testing.assert_close(prediction.anomaly_map, mixed_map)


@pytest.mark.parametrize("localises", [True, False])
def test_zero_shot_images_can_be_scored_by_their_maps(weights, tmp_path, localises):
    config = zero_shot_mvfa(weights)
    changed = config.model_copy(update={"score": ScoreConfig(zero_shot="map_max")})
    detector = fitted(MVFA.build(changed), tmp_path)
    detector.localises.fill_(localises)
    prediction = detector.predict(batch_of(random_images(3)))
    by_map = prediction.anomaly_map.amax(dim=(1, 2, 3))
    assert torch.equal(prediction.score, by_map) == localises
    assert torch.equal(prediction.score, prediction.parts["zero_score"]) != localises


def test_one_level_of_several_can_be_scored_alone(weights, tmp_path):
    detector = variant(weights, tmp_path, scored_blocks=(3,))
    assert len(detector.banks) == 1
    parts = detector.predict(batch_of(random_images(2))).parts
    assert {"zero_block_3", "few_block_3"} < parts.keys()
    assert not [name for name in parts if name.endswith("block_1")]
    assert set(detector.adapters.heads["seg"][0].state_dict()) == {"down.weight", "up.weight"}


@pytest.mark.parametrize(
    "fields",
    [
        {"blocks": (3,)},
        {"adapters": AdapterConfig(kind="projector", activation="none")},
        {"loss": LossConfig(pooled="max", classification="plain")},
    ],
)
def test_every_option_trains_and_predicts(weights, tmp_path, fields):
    detector = variant(weights, tmp_path, **fields)
    plain = variant(weights, tmp_path / "plain")
    batch = batch_of(random_images(2, seed=4))
    found = detector.predict(batch)
    assert found.score.isfinite().all()
    assert not torch.allclose(found.score, plain.predict(batch).score)


def test_the_bank_may_keep_patches_only(weights, tmp_path):
    patches = variant(weights, tmp_path / "patches", bank_class_tokens=False)
    everything = variant(weights, tmp_path / "everything")
    for ours, theirs in zip(patches.banks, everything.banks, strict=True):
        assert torch.equal(ours.tokens, theirs.tokens[:, 1:])
        assert torch.equal(ours.owner, theirs.owner)


def test_a_bank_in_fp16_is_saved_and_scores_almost_the_same(weights, tmp_path):
    small = variant(weights, tmp_path / "fp16", bank_precision="fp16")
    exact = variant(weights, tmp_path / "fp32")
    for ours, theirs in zip(small.banks, exact.banks, strict=True):
        assert ours.tokens.nbytes * 2 == theirs.tokens.nbytes
    batch = batch_of(random_images(2, seed=4))
    found, expected = small.predict(batch).parts, exact.predict(batch).parts
    torch.testing.assert_close(found["few_map"], expected["few_map"], rtol=0.02, atol=0.02)
    run = Run(preset="tiny", source="tests", method="mvfa", config=small.config)
    save_detector(small, run, tmp_path)
    loaded, _ = load_detector(tmp_path)
    assert loaded.banks[0].tokens.dtype == torch.float16
    assert torch.equal(loaded.predict(batch).score, small.predict(batch).score)


def test_the_criterion_is_asked_of_a_detector_that_is_ready(few, tmp_path):
    batch = batch_of(random_images(2, seed=3))
    asked: list[tuple[float, int]] = []

    def value() -> float:
        asked.append((float(few.predict(batch).score.sum()), len(few.banks[0])))
        return -float(len(asked))

    history = few.fit(
        LabelledImages(random_images(8)),
        options=OPTIONS,
        run_dir=tmp_path,
        criterion=Criterion("the first", value),
    )
    assert history.checkpoint == "the first"
    assert [size for _, size in asked] == [4, 4]
    assert asked[0][0] != asked[1][0]
    after = few.predict(batch).score.sum().item()
    assert after == pytest.approx(asked[0][0], abs=1e-5), "bank and ranges of the chosen epoch"


class Unlabelled(LabelledImages):
    def collate(self, items: list[int]) -> Batch:
        return replace(super().collate(items), label=None)


class Chosen(LabelledImages):
    """Of the images in `places` only."""

    def __init__(self, image: Tensor, places: list[int]) -> None:
        super().__init__(image)
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, draw: Draw) -> int:
        return self.places[draw.index]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Unlabelled(random_images(8)), "with labels, got 'image 0'.*data.supervision"),
        (Chosen(random_images(8), [0, 2, 4, 6]), "normal and abnormal .* 4 normal and 0 abnormal"),
        (Chosen(random_images(8), [1, 3, 5, 7]), "normal and abnormal .* 0 normal and 4 abnormal"),
        (Chosen(random_images(8), [0, 1, 3, 5]), "at least 2 normal images .* got 1"),
    ],
)
def test_training_images_that_cannot_teach(few, tmp_path, data, message):
    with pytest.raises(FitError, match=message):
        fitted(few, tmp_path, data)


def test_words_and_blocks_are_checked_before_training(weights):
    config = few_shot_mvfa(weights)
    with pytest.raises(ConfigError, match=r"config.object is .* not set; .*for_dataset"):
        MVFA.build(config.model_copy(update={"object": None}))
    with pytest.raises(ConfigError, match=r"blocks of a CLIP that has 4; choose from 0 to 3"):
        MVFA.build(config.model_copy(update={"blocks": (1, 4)}))
