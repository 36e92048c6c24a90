"""IQE-CLIP against the published code's values, its options, and what it learns from."""

from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor

from golden_names_iqe import renamed_detector
from golden_parity import assert_parity
from golden_parity import weights as golden_weights
from methods.tiny_detectors import (
    SIDE,
    Images,
    LabelledImages,
    batch_of,
    published_iqe_clip,
    random_images,
)
from scanomaly.backbones.clip import Clip, ClipText, ClipVision, tokenize
from scanomaly.config.backbones import ClipConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.iqe_clip import (
    BranchWeights,
    IqeClipConfig,
    LossConfig,
    PromptConfig,
    QueryConfig,
    ScoreConfig,
)
from scanomaly.errors import ConfigError, FitError
from scanomaly.methods import iqe_clip
from scanomaly.methods.iqe_clip import IqeClip, Lesson, Observation
from scanomaly.records import Batch, Draw
from tiny_clip import NAME, save_clip

PLAIN = ((0.0,) * 3, (1.0,) * 3)
VISION = {"image_size": 20, "patch_size": 5, "width": 40, "layers": 4, "head_width": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}
GOLDEN_CONFIG = IqeClipConfig(
    backbone=ClipConfig(name="tiny/golden", side=20, weights="random"),
    blocks=(0, 1, 2, 3),
    queries=QueryConfig(depth=2, heads=4, hidden=48),
)
BRANCHES = ("text", "query")


@pytest.fixture(scope="module")
def table(golden) -> dict[str, Tensor]:
    return load_file(golden("iqe_pipeline.safetensors"))


def golden_clip(table: dict[str, Tensor]) -> Clip:
    """The published text tower, and an image tower that is never run."""
    network = open_clip.CLIP(32, VISION, TEXT)
    state = {k: v for k, v in golden_weights(table, "w.clip.").items() if "prompt" not in k}
    rows = state.pop("token_embedding.rows")
    state["token_embedding.weight"] = torch.zeros(49408, 32).index_copy(0, table["token_ids"], rows)
    missing = network.load_state_dict(state, strict=False).missing_keys
    assert all(name.startswith("visual.") for name in missing)
    vision = ClipVision(network.visual, *PLAIN)
    del network.visual
    return Clip(vision, ClipText(network))


def golden_detector(table: dict[str, Tensor], config: IqeClipConfig = GOLDEN_CONFIG) -> IqeClip:
    detector = IqeClip(config, golden_clip(table)).eval()
    trained = renamed_detector(golden_weights(table))
    assert trained.keys() == {n for n, p in detector.named_parameters() if p.requires_grad}
    assert detector.load_state_dict(trained, strict=False).unexpected_keys == []
    return detector


@pytest.fixture
def detector(table) -> IqeClip:
    return golden_detector(table)


@pytest.fixture
def lesson(table) -> Lesson:
    patches = tuple(table[f"in.patch{level}"][:, 1:] for level in range(4))
    observation = Observation(table["in.image_features"], patches)
    label, mask = table["in.labels"].bool(), table["in.masks"].bool()
    return Lesson(observation, label, mask, torch.ones(6, dtype=torch.bool))


def test_published_embeddings(detector, lesson, table):
    pooled, patches = lesson.observation
    assert_parity(detector.class_tokens(pooled), table["out.class_tokens"])
    start, text = detector.class_queries(pooled), detector.text_features(pooled)
    assert_parity(start, table["out.query_tokens"])
    assert_parity(text, table["out.text"])
    levels = detector.adapted(patches)
    queries = detector.instance_queries(start, levels, text)
    for level in range(4):
        assert_parity(levels[level], table[f"out.linear{level}"])
        assert_parity(queries[level], table[f"out.query{level}"])


def test_published_sentences(table):
    ids = torch.stack([table["in.tokens.normal"], table["in.tokens.abnormal"]])
    assert torch.equal(tokenize(IqeClipConfig().sentences), ids.long())


@pytest.mark.parametrize("branch", BRANCHES)
def test_published_maps_and_losses_of_every_level(branch, detector, lesson, table):
    logits = detector.compare(lesson.observation)[branch]
    for level in range(4):
        one = logits[level : level + 1]
        assert_parity(detector.maps(one)[0, :, 1], table[f"out.map.{branch}{level}"])
        assert_parity(detector.branch_loss(one, lesson), table[f"out.loss.{branch}{level}"])


def test_published_total_loss(detector, lesson, table):
    assert_parity(detector.loss(lesson), table["out.loss.total"].squeeze())


def on_the_test_set(scored: dict[str, Tensor], name: str) -> Tensor:
    """Published: lowest and highest value of the test set become 0 and 1."""
    value = scored[name]
    return (value - value.min()) / (value.max() - value.min())


@pytest.mark.parametrize(("setting", "image"), [("zero", "patch_mean"), ("few", "map_mean")])
def test_published_scores_of_a_test_set(setting, image, lesson, table):
    score = ScoreConfig(image=image)
    detector = golden_detector(table, GOLDEN_CONFIG.model_copy(update={"score": score}))
    with torch.no_grad():
        scored = detector.scored(detector.compare(lesson.observation))
    maps, scores = on_the_test_set(scored, "map"), on_the_test_set(scored, "score")
    spread = (scored["map"].max() - scored["map"].min()).item()  # smooth maps differ little
    assert_parity(maps[:, 0], table[f"out.{setting}.pixel"], tolerance=1e-6 / spread)
    assert_parity(scores, table[f"out.{setting}.image"])
    areas = (
        roc_auc_score(lesson.label.numpy(), scores.numpy()),
        roc_auc_score(lesson.mask.flatten().numpy(), maps.flatten().numpy()),
    )
    assert sum(areas) == pytest.approx(table[f"f64.out.{setting}.sum_auc"].item(), abs=1e-6)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint (section 11), its unused projection left out."""
    linear = {f"trainable_linearlayer.fc.{level}": (768, 1024) for level in range(4)}
    norms = ["iqm.layernorm", "clip.prompt_norm"]
    for block in (f"iqm.encoder.layer.{index}" for index in range(4)):
        for kind in ("attention", "crossattention", "text_crossattention"):
            parts = ("attention.query", "attention.key", "attention.value", "output.dense")
            linear |= {f"{block}.{kind}.{part}": (768, 768) for part in parts}
            norms.append(f"{block}.{kind}.output.LayerNorm")
        linear[f"{block}.intermediate_query.dense"] = (3072, 768)
        linear[f"{block}.output_query.dense"] = (768, 3072)
        norms.append(f"{block}.output_query.LayerNorm")
    linear["clip.prompt_proj"] = (768, 768)
    convolutions = ("New_Lan_Embed.prompt_linear1.fc", "query_linear.fc")
    linear |= dict.fromkeys(convolutions, (2, 1, 3))
    return {
        **{f"{name}.weight": shape for name, shape in linear.items()},
        **{f"{name}.bias": shape[:1] for name, shape in linear.items()},
        **{f"{name}.{part}": (768,) for name in norms for part in ("weight", "bias")},
        "New_Lan_Embed.prompt_query": (1, 2, 768),
        "New_Lan_Embed.prompt_temp": (),
        "query_tokens": (1, 2, 768),
        "clip.prompt_embeddings": (1, 1, 768),
        "clip.deep_prompt_embeddings": (11, 1, 768),
    }


def test_a_published_checkpoint_is_our_trained_state(monkeypatch):
    ids = tokenize(IqeClipConfig().sentences)
    monkeypatch.setattr(iqe_clip, "tokenize", lambda sentences: ids)
    sizes = open_clip.get_model_config("ViT-L-14-336")
    with torch.device("meta"):
        network = open_clip.CLIP(sizes["embed_dim"], sizes["vision_cfg"], sizes["text_cfg"])
        vision = ClipVision(network.visual, *PLAIN)
        del network.visual
        detector = IqeClip(IqeClipConfig(), Clip(vision, ClipText(network)))
        state = {name: torch.empty(shape) for name, shape in published_shapes().items()}
    trained = {n: p.shape for n, p in detector.named_parameters() if p.requires_grad}
    assert {name: t.shape for name, t in renamed_detector(state).items()} == trained
    assert detector.fitted_state().keys() == trained.keys() | {"branch_ranges"}


def tiny(weights, **fields: Any) -> IqeClip:
    torch.manual_seed(0)
    config = published_iqe_clip(weights).model_dump()
    return IqeClip.build(IqeClipConfig.model_validate(config | fields)).eval()


def tiny_lesson(detector: IqeClip, indices: tuple[int, ...] = tuple(range(6))) -> Lesson:
    """Every second image is abnormal, and every third has no mask."""
    images = LabelledImages(random_images(6))
    batch = images.collate([images[Draw(None, index)] for index in indices])
    has_mask = torch.tensor([index % 3 != 2 for index in indices])
    return detector.lesson(replace(batch, has_mask=has_mask))


TINY_QUERIES = {"depth": 1, "heads": 2, "hidden": 24}
ABLATIONS = {
    "no prompt tuning": (
        {"prompts": PromptConfig(class_tokens=0, learned=0)},
        {"class_tokens", "prompted_text"},
    ),
    "no IQM": ({"queries": None}, {"class_queries", "instance_queries"}),
    "no class tokens": ({"prompts": PromptConfig(class_tokens=0)}, {"class_tokens"}),
    "no learnable tokens": ({"prompts": PromptConfig(learned=0)}, {"prompted_text"}),
    "no class initialisation": (
        {"queries": QueryConfig(condition="none", **TINY_QUERIES)},
        {"class_queries.condition"},
    ),
    "no text in IQM": (
        {"queries": QueryConfig(text=False, **TINY_QUERIES)},
        {"instance_queries.blocks.0.attention.text"},
    ),
    "no image in IQM": (
        {"queries": QueryConfig(image=False, **TINY_QUERIES)},
        {"instance_queries.blocks.0.attention.image"},
    ),
    "baseline": (
        {"prompts": PromptConfig(class_tokens=0, learned=0), "queries": None},
        {"class_tokens", "prompted_text", "class_queries", "instance_queries"},
    ),
}
"""Row of the paper's tables -> (fields, whose trained tensors are missing)."""


@pytest.mark.parametrize("row", ABLATIONS)
def test_an_ablation_lacks_what_it_says_and_trains_all_the_rest(row, weights):
    fields, missing = ABLATIONS[row]
    detector, full = tiny(weights, **fields), tiny(weights)
    trained, all_trained = (
        {n: p for n, p in d.named_parameters() if p.requires_grad} for d in (detector, full)
    )
    gone = {name for name in all_trained if name.startswith(tuple(f"{m}." for m in missing))}
    last = {name for name in all_trained if ".feed_forward." in name}  # named after what is last
    assert gone
    assert trained.keys() >= all_trained.keys() - gone - last
    assert not trained.keys() & gone
    detector.loss(tiny_lesson(detector)).backward()
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


def test_text_features_are_the_images_own_only_with_class_tokens(weights):
    pooled = torch.randn(3, 16)
    own = tiny(weights).text_features(pooled)
    assert (own[0] - own[1]).abs().max() > 1e-4
    for prompts in (PromptConfig(class_tokens=0), PromptConfig(condition="none")):
        assert tiny(weights, prompts=prompts).text_features(pooled).shape == (1, 2, 16)


def test_the_loss_is_a_mean_over_images_with_and_without_masks(weights):
    detector = tiny(weights)
    lesson = tiny_lesson(detector)
    assert lesson.has_mask.tolist() == [True, True, False] * 2
    alone = [detector.loss(tiny_lesson(detector, (index,))) for index in range(6)]
    torch.testing.assert_close(detector.loss(lesson), torch.stack(alone).mean())
    logits = detector.compare(lesson.observation)["text"]
    unknown = lesson._replace(has_mask=torch.zeros(6, dtype=torch.bool))
    assert detector.branch_loss(logits, unknown)[:2].tolist() == [0, 0]


def test_loss_options(weights):
    lesson = tiny_lesson(tiny(weights))
    options = LossConfig(
        weights=BranchWeights(text=0.8, query=0.2), pooled="map_max", classification="plain"
    )
    detector = tiny(weights, loss=options)
    logits = detector.compare(lesson.observation)
    by_branch = {name: detector.branch_loss(found, lesson) for name, found in logits.items()}
    expected = 0.8 * by_branch["text"].sum() + 0.2 * by_branch["query"].sum()
    torch.testing.assert_close(detector.loss(lesson), expected)
    highest = detector.maps(logits["query"])[:, :, 1].amax(dim=(2, 3))  # (I, B)
    label = lesson.label.float()
    plain = [-(label * h.log() + (1 - label) * (1 - h).log()).mean() for h in highest]
    torch.testing.assert_close(by_branch["query"][2], sum(plain))


def test_score_options(weights):
    batch = batch_of(random_images(3))
    plain = {"weights": BranchWeights(text=0.2, query=0.8), "sigma": 0.0}
    scores = {
        image: tiny(weights, score=ScoreConfig(image=image, **plain)).raw_branches(batch)
        for image in ("patch_mean", "map_mean", "map_max")
    }
    raw = scores["map_max"]
    text, query = raw["text_map"], raw["query_map"]
    torch.testing.assert_close(raw["map"], 0.2 * text + 0.8 * query)
    torch.testing.assert_close(raw["score"], raw["map"].amax(dim=(1, 2, 3)))
    means = text.mean(dim=(1, 2, 3)) + query.mean(dim=(1, 2, 3))
    torch.testing.assert_close(scores["map_mean"]["score"], means)
    assert (scores["patch_mean"]["score"] / means - 2).abs().max() < 0.5  # two levels, summed
    torch.testing.assert_close(raw["query_score"], query.amax(dim=(1, 2, 3)))
    for image in ("patch_mean", "map_mean"):
        both = sum(scores[image][f"{branch}_score"] for branch in BRANCHES)
        torch.testing.assert_close(both, scores[image]["score"])


def test_level_maps_are_linear_unless_told_otherwise(weights):
    patches = tuple(torch.randn(2, 16, 16) for _ in range(2))
    levels = tiny(weights).adapted(patches)
    assert levels.min() < 0
    rectified = tiny(weights, level_activation="relu").adapted(patches)
    assert torch.equal(rectified, levels.clamp_min(0))


def test_without_a_temperature_text_cosines_stay_as_they_are(weights):
    observation = tiny_lesson(tiny(weights)).observation
    learned, plain = tiny(weights), tiny(weights, temperature="none")
    found, cosines = (d.compare(observation) for d in (learned, plain))
    torch.testing.assert_close(found["text"], cosines["text"] / 0.07)
    torch.testing.assert_close(found["query"], cosines["query"])
    assert cosines["text"].abs().max() <= 1 + 1e-6


def test_parts_are_both_branches_and_every_level(weights):
    detector = tiny(weights)
    parts = detector.predict(batch_of(random_images(2))).parts
    levels = {f"{branch}_block_{block}" for branch in BRANCHES for block in (1, 3)}
    whole = {f"{branch}_{what}" for branch in BRANCHES for what in ("map", "score")}
    assert parts.keys() == whole | levels
    for branch in BRANCHES:
        both = [parts[f"{branch}_block_{block}"] for block in (1, 3)]
        torch.testing.assert_close(parts[f"{branch}_map"], torch.stack(both).mean(dim=0))
        assert parts[f"{branch}_map"].shape == (2, 1, SIDE, SIDE)
        assert parts[f"{branch}_score"].shape == (2,)


def test_embeddings_are_what_patches_are_compared_with(weights):
    detector = tiny(weights, temperature="none").eval()
    batch = batch_of(random_images(2))
    found = {(e.row, e.column, e.series): e.vectors for e in detector.embeddings(batch)}
    with torch.no_grad():
        observation = detector.observe(batch.image)
        logits = detector.compare(observation)
    for index, column in enumerate(("block 1", "block 3")):
        assert torch.equal(found["frozen CLIP", column, ""], observation.patches[index])
        patches = torch.nn.functional.normalize(found["adapted", column, ""], dim=-1)
        for branch in BRANCHES:
            both = [found["embeddings", column, f"{branch} {s}"] for s in ("normal", "abnormal")]
            unit = torch.nn.functional.normalize(torch.stack(both, dim=1), dim=-1)
            torch.testing.assert_close(patches @ unit.transpose(1, 2), logits[branch][index])


OPTIONS = FitOptions(
    epochs=1, batch_size=6, learning_rate=1e-4, schedule="constant", accelerator="cpu"
)


def test_ranges_are_those_of_the_training_images(weights, tmp_path):
    detector = tiny(weights)
    detector.fit(LabelledImages(random_images(6)), options=OPTIONS, run_dir=tmp_path)
    prediction = detector.predict(batch_of(random_images(6)))
    for found in (prediction.score, prediction.anomaly_map):
        assert found.min().item() == pytest.approx(0, abs=1e-4)
        assert found.max().item() == pytest.approx(1, abs=1e-4)


def test_the_temperature_has_a_rate_of_its_own(weights, tmp_path):
    detector = tiny(weights)
    before = {n: p.detach().clone() for n, p in detector.named_parameters()}
    detector.fit(LabelledImages(random_images(6)), options=OPTIONS, run_dir=tmp_path)
    moved = {n: (p - before[n]).abs().max().item() for n, p in detector.named_parameters()}
    assert moved.pop("log_temperature") == pytest.approx(0.01, rel=1e-3)
    assert max(moved.values()) == pytest.approx(1e-4, rel=1e-2)


def test_cached_features_change_nothing(weights, tmp_path):
    images = LabelledImages(random_images(6))
    states = []
    for cached in (False, True):
        detector = tiny(weights)
        options = OPTIONS.model_copy(update={"cache_features": cached, "epochs": 2})
        detector.fit(images, images, options=options, run_dir=tmp_path / str(cached))
        states.append(detector.fitted_state())
        assert not (tmp_path / str(cached) / "cache").exists()
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_images_without_labels_or_of_one_class_cannot_teach(weights, tmp_path):
    with pytest.raises(FitError, match=r"'image 0' and others without; set data.supervision"):
        tiny(weights).fit(Images(random_images(6)), options=OPTIONS, run_dir=tmp_path)

    class Normal(LabelledImages):
        def collate(self, items: list[Any]) -> Batch:
            batch = super().collate(items)
            return Batch(batch.image, batch.ids, torch.zeros(len(items), dtype=torch.bool))

    with pytest.raises(FitError, match="got 6 normal and 0 abnormal ones"):
        tiny(weights).fit(Normal(random_images(6)), options=OPTIONS, run_dir=tmp_path)


def test_class_features_must_be_as_wide_as_the_texts_tokens(tmp_path):
    backbone = ClipConfig(name=NAME, side=SIDE, weights=str(save_clip(tmp_path)))
    config = IqeClipConfig(backbone=backbone, blocks=(1, 3))
    with pytest.raises(ConfigError, match=r"width 12 .* width 8 .* such as ViT-L-14-336/openai"):
        IqeClip.build(config)


def test_impossible_configurations_say_what_to_do(weights):
    with pytest.raises(ConfigError, match="heads 3 does not divide the feature width 16"):
        tiny(weights, queries=QueryConfig(depth=1, heads=3))
    with pytest.raises(ConfigError, match="need 78 rows and the text tower has 77; shorten"):
        tiny(weights, prompts=PromptConfig(learned=64))
    with pytest.raises(ConfigError, match=r"blocks=\(1, 4\) .* a CLIP that has 4"):
        tiny(weights, blocks=(1, 4))
    with pytest.raises(ValueError, match=r"score.weights of text are 0; give one"):
        tiny(
            weights,
            queries=None,
            score=ScoreConfig(weights=BranchWeights(text=0.0, query=1.0)),
        )
    with pytest.raises(ValueError, match=r"backbone.side .* published: 240"):
        IqeClipConfig(backbone=ClipConfig())
