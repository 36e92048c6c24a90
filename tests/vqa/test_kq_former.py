"""KQ-Former VQA: the published models, answers alone and in batches, training, saving."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.models import VisionTransformer
from tiny_answerer import (
    DATA,
    FORMER,
    QUESTIONS,
    SIDE,
    TEXTS,
    VISUAL,
    random_images,
    some,
    tiny_answerer,
    vqa_config,
)
from torch import Tensor, nn

from golden_names_vqa import renamed
from golden_parity import assert_parity
from golden_parity import weights as golden_weights
from scanomaly.backbones.language import build_gpt2, build_tokenizer
from scanomaly.config.vqa import FormerConfig, LanguageConfig, Slots, VqaConfig
from scanomaly.errors import DataError
from scanomaly.questions import QUESTIONS as STANDARD
from scanomaly.records import Triple
from scanomaly.run_folder import fill_tensors
from scanomaly.vqa.fusion import build_fusion
from scanomaly.vqa.images import Images, triple_images
from scanomaly.vqa.items import IGNORED, VqaBatch
from scanomaly.vqa.kq_former import KqFormerVqa
from scanomaly.vqa.visual import CnnEncoder, ViTEncoder

PUBLISHED = (
    "mi_average_vit",
    "mi_concate_vit",
    "mi_channel_vit",
    "kqformer_concate_vit",
    "kqformer_channel_vit",
    "mi_concate_resnet",
    "mi_channel_resnet",
    "kqformer_concate_resnet",
)
SLOTS: dict[str, Slots] = {
    "Orig_Orig_Orig": ("image", "image", "image"),
    "Orig_Black_Black": ("image", "blank", "blank"),
    "Orig_Anomaly_Black": ("image", "anomaly_map", "blank"),
    "Orig_Black_Recon": ("image", "blank", "reconstruction"),
}
CHANNEL_SLOTS: dict[str, Slots] = {
    "1": ("image", "blank", "blank"),
    "2": ("image", "anomaly_map", "blank"),
    "Anomaly_Black_Black": ("anomaly_map", "blank", "blank"),
    "Orig_Black_Recon": ("image", "reconstruction", "blank"),
}
GOLDEN_SIZES: dict[str, Any] = {"weights": "random", "width": 16, "heads": 2}
GOLDEN_FORMER = FormerConfig(
    layers=2, queries=4, hidden=24, positions=24, head_hidden=24, **GOLDEN_SIZES
)
GOLDEN_DECODER = LanguageConfig(layers=2, positions=40, **GOLDEN_SIZES)


class NoTokenizer:
    """Golden files begin with tokens."""

    eos_token_id = 59

    def __call__(self, text: str) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        return 60

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> Any:
        raise NotImplementedError

    def save_pretrained(self, folder: str) -> Any:
        raise NotImplementedError


def golden_model(name: str, table: dict[str, Tensor]) -> KqFormerVqa:
    """The published model at the golden file's sizes, with its values, in eval mode."""
    family, fusion, encoder_name = name.split("_")
    config = VqaConfig(
        former=GOLDEN_FORMER if family == "kqformer" else None,
        decoder=GOLDEN_DECODER,
        fusion=fusion.replace("concate", "concat"),
        memory_tokens=6,
        memory_hidden=8,
        max_tokens=12,
    )
    encoder: ViTEncoder | CnnEncoder = CnnEncoder(nn.Conv2d(3, 20, 16, stride=16), 20, 5)
    if encoder_name == "vit":
        network = VisionTransformer(
            **{"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2},
            mlp_ratio=2,
            num_classes=0,
        )
        encoder = ViTEncoder(network)
    build = build_fusion(config, encoder.width, 5, 16)
    decoder = build_gpt2(GOLDEN_DECODER, 60, end=59)
    model = KqFormerVqa(config, encoder, build, decoder, NoTokenizer())
    own = model.fitted_state()
    published = renamed(golden_weights(table), own)
    unused = own.keys() - published.keys()
    assert all("word_embeddings" in key or "token_type_embeddings" in key for key in unused)
    fill_tensors(own, {**own, **published}, Path(name))
    return model.eval()


def with_slots(model: KqFormerVqa, slots: Slots) -> KqFormerVqa:
    model.config = model.config.model_copy(update={"slots": slots})
    return model


@pytest.fixture
def golden_batch(golden) -> VqaBatch:
    table = load_file(golden("vqa_batch.safetensors"))
    return VqaBatch(
        images=(table["in.orig"], table["in.anomaly"], table["in.rec"]),
        ids=table["in.text"],
        attention=table["in.attn"],
        labels=table["in.label"],
        triple=torch.arange(2),
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models(golden, golden_batch, name):
    table = load_file(golden(f"vqa_model_{name}.safetensors"))
    model = golden_model(name, table)
    images = golden_batch.images
    with torch.no_grad():
        memory = model.memory(images)
        assert_parity(memory, table["out.fused"])
        logits = model.decoder(
            input_ids=golden_batch.ids,
            attention_mask=golden_batch.attention,
            encoder_hidden_states=memory,
        ).logits
        assert_parity(logits, table["out.logits"])
        assert_parity(model.loss(golden_batch), table["out.loss"])
        known = CHANNEL_SLOTS if "channel" in name else SLOTS
        switches = [key.removeprefix("out.fused.") for key in table if "out.fused." in key]
        assert set(switches) in (set(), set(known))
        for switch in switches:
            found = with_slots(model, known[switch]).memory(images)
            assert_parity(found, table[f"out.fused.{switch}"])


def test_the_published_norms_in_training(golden, golden_batch):
    table = load_file(golden("vqa_model_kqformer_concate_vit.safetensors"))
    model = golden_model("kqformer_concate_vit", table)
    model.fusion.head.train()
    with torch.no_grad():
        assert_parity(model.memory(golden_batch.images), table["out.fused_batchnorm_train"])


VARIANTS = [
    {"fusion": fusion, "former": former, "visual": VISUAL[visual]}
    for fusion, former, visual in (
        ("average", FORMER, "vit"),
        ("concat", FORMER, "resnet"),
        ("channel", FORMER, "vit"),
        ("concat", None, "vit"),
        ("channel", None, "resnet"),
    )
]


def batch_of(answerer: KqFormerVqa, images: Images) -> VqaBatch:
    """Every text about every triple."""
    pairs = [re.fullmatch(r"(.*\?) (.*)", text) for text in TEXTS]
    packed = [answerer.packing(pair[1], pair[2]) for pair in pairs if pair]
    count = len(images[0])
    ids, attention, labels = (torch.stack(list(part) * count) for part in zip(*packed, strict=True))
    triple = torch.arange(count).repeat_interleave(len(packed))
    return VqaBatch(images, ids, attention, labels, triple)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_answers_alone_and_in_a_batch(variant):
    answerer = tiny_answerer(**variant)
    images = random_images(3)
    asked, about = list(QUESTIONS) * 3, [i for i in range(3) for _ in QUESTIONS]
    together = answerer.generate(images, asked, triple=about, alternatives=3)
    for index, question, found in zip(about, asked, together, strict=True):
        (alone,) = answerer.generate(some(images, index), [question], alternatives=3)
        assert alone.text == found.text
        assert [text for text, _ in alone.others] == [text for text, _ in found.others]
        assert alone.log_probability == pytest.approx(found.log_probability, abs=1e-4)
    assert len({found.text for found in together}) > 3, "answers that depend on image and question"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_learns_from_a_batch_of_one(variant):
    answerer = tiny_answerer(**variant).train()
    loss = answerer.loss(batch_of(answerer, random_images(1)))
    assert loss.isfinite()
    loss.backward()
    for name, parameter in answerer.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


def test_the_loss_of_a_batch_is_the_mean_over_its_targets():
    answerer = tiny_answerer()
    images = random_images(2)
    batch = batch_of(answerer, images)
    with torch.no_grad():
        memory = answerer.memory(images)[batch.triple]
        logits = answerer.decoder(
            batch.ids, attention_mask=batch.attention, encoder_hidden_states=memory
        ).logits[:, :-1]
        expected = nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten())
        torch.testing.assert_close(answerer.loss(batch), expected)


def test_a_greedy_answer_comes_before_what_beams_find():
    plain, greedy, narrow = (
        tiny_answerer(**options) for options in ({}, {"greedy": True}, {"beams": 1})
    )
    images = random_images(3)
    asked, about = list(QUESTIONS) * 3, [i for i in range(3) for _ in QUESTIONS]
    by_beams = plain.generate(images, asked, triple=about, alternatives=3)
    likeliest = narrow.generate(images, asked, triple=about)
    found = greedy.generate(images, asked, triple=about, alternatives=3)
    assert [each.text for each in found] == [each.text for each in likeliest]
    assert any(a.text != b.text for a, b in zip(found, by_beams, strict=True))
    for each, beams in zip(found, by_beams, strict=True):
        texts = [text for text, _ in each.others]
        assert each.text not in texts
        assert len(texts) == 2
        assert set(texts) <= {beams.text, *(text for text, _ in beams.others)}
        scores = [score for _, score in each.candidates]
        assert scores == sorted(scores, reverse=True), "candidates are best first all the same"
        assert (each.text, each.log_probability) in each.candidates
    assert any(each.candidates[0][0] != each.text for each in found)
    alone = greedy.generate(images, asked, triple=about)
    assert [(each.text, each.others) for each in alone] == [(each.text, ()) for each in found]


def test_first_tokens_may_weigh_more():
    answerer = tiny_answerer(loss="first_tokens")
    batch = batch_of(answerer, random_images(2))
    total = weight = 0.0
    with torch.no_grad():
        memory = answerer.memory(batch.images)[batch.triple]
        logits = answerer.decoder(
            batch.ids, attention_mask=batch.attention, encoder_hidden_states=memory
        ).logits
        for row, labels in zip(logits.log_softmax(dim=-1), batch.labels, strict=True):
            places = (labels != IGNORED).nonzero()[:, 0].tolist()
            assert len(places) > 2
            for number, place in enumerate(places, start=1):
                total -= float(row[place - 1, labels[place]]) / number
                weight += 1 / number
        assert float(answerer.loss(batch)) == pytest.approx(total / weight, rel=1e-5)
        assert float(tiny_answerer().loss(batch)) != pytest.approx(total / weight, rel=1e-3)


def test_probabilities_of_candidates_are_those_of_the_loss():
    answerer = tiny_answerer()
    images = random_images(1)
    scores = answerer.candidate_scores(images, QUESTIONS[0], ["Yes.", "It's mass lesion."])
    assert scores.shape == (1, 2)
    ids, attention, labels = (part[None] for part in answerer.packing(QUESTIONS[0], "Yes."))
    with torch.no_grad():
        loss = answerer.loss(VqaBatch(images, ids, attention, labels, torch.tensor([0])))
    targets = int((labels != -100).sum())
    assert float(scores[0, 0]) == pytest.approx(-float(loss) * targets, abs=1e-4)


def test_candidates_of_several_triples():
    answerer = tiny_answerer()
    images = random_images(3)
    candidates = ["Yes.", "It's mass lesion."]
    together = answerer.candidate_scores(images, QUESTIONS[0], candidates)
    assert together.shape == (3, 2)
    for index in range(3):
        alone = answerer.candidate_scores(some(images, index), QUESTIONS[0], candidates)
        torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=0)


def test_reference_decoding_is_greedy_without_the_first_word():
    answerer = tiny_answerer()
    reference = tiny_answerer(reference_decoding=True)
    images = random_images(4)
    asked = [QUESTIONS[0]] * 4
    published = reference.generate(images, asked)
    assert [f.text for f in published] == [
        f.text for f in reference.generate(images, ["Where the case normal?"] * 4)
    ], "whatever the first word"
    assert [f.text for f in published] != [f.text for f in answerer.generate(images, asked)]
    assert all(f.others == () for f in reference.generate(images, asked, alternatives=5))


def triple_of(images: Images) -> Triple:
    """As a detector would give it: 0..1, at another size."""
    image, anomaly_map, reconstruction = (
        nn.functional.interpolate((each + 1) / 2, (50, 60), mode="nearest") for each in images
    )
    return Triple(image, anomaly_map, reconstruction, tuple(f"scan {i}" for i in range(len(image))))


def test_answers_about_a_triple_of_any_size():
    answerer = tiny_answerer().train()
    triple = triple_of(random_images(2))
    asked = [STANDARD["C1"].text, f" {STANDARD['C2'].text} ", "Where is it?"]
    answers = answerer.answer(triple, asked, alternatives=3)
    assert [[a.question.name for a in row] for row in answers] == [["C1", "C2", "free"]] * 2
    images = triple_images(triple, DATA)
    assert images[0].shape == (2, 3, SIDE, SIDE)
    assert answerer.training, "left as it was"
    answerer.eval()
    for index, row in enumerate(answers):
        for answer in row:
            (found,) = answerer.generate(some(images, index), [answer.question.text])
            assert answer.text == found.text
            assert answer.log_probability == pytest.approx(found.log_probability, abs=1e-4)
            assert answer.candidates[0] == (answer.text, answer.log_probability)
            assert 1 <= len(answer.candidates) <= 3
    assert answerer.answer(triple, []) == [[], []]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "expected a question, got an empty text"),
        ("Is it " * 20 + "normal?", "has 42 tokens; shorten it to at most 19"),
    ],
)
def test_questions_that_cannot_be_asked(question, message):
    answerer = tiny_answerer()
    with pytest.raises(DataError, match=message):
        answerer.answer(triple_of(random_images(1)), [question])
    with pytest.raises(DataError, match=message):
        answerer.generate(random_images(1), [question])
    with pytest.raises(DataError, match=message):
        answerer.candidate_scores(random_images(1), question, ["Yes."])


def test_as_many_questions_as_triples():
    with pytest.raises(ValueError, match="expected 2 questions, one for each, got 3"):
        tiny_answerer().generate(random_images(2), QUESTIONS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded_answers_are_the_same(variant):
    answerer = tiny_answerer(**variant)
    state = {name: value.clone() for name, value in answerer.fitted_state().items()}
    pointers = [value.data_ptr() for value in answerer.fitted_state().values() if value.numel()]
    assert len(set(pointers)) == len(pointers), "safetensors refuses tensors that share memory"
    bare = KqFormerVqa.build(answerer.without_weights(), answerer.tokenizer, DATA).eval()
    images = random_images(3)
    asked = list(QUESTIONS)
    assert bare.generate(images, asked) != answerer.generate(images, asked)
    fill_tensors(bare.fitted_state(), state, Path("model.safetensors"))
    assert bare.generate(images, asked) == answerer.generate(images, asked)


def test_seeds_decide_what_has_no_pretrained_values():
    def first_weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        config = vqa_config()
        answerer = KqFormerVqa.build(config, build_tokenizer(config.decoder, TEXTS))
        weights: Tensor = answerer.fusion.former.model.encoder.layer[0].attention.self.query.weight
        return weights

    with torch.random.fork_rng(devices=[]):
        torch.testing.assert_close(first_weights(1), first_weights(1), rtol=0, atol=0)
        assert not torch.equal(first_weights(1), first_weights(2))
