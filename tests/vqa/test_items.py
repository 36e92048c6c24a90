"""Questions as training data: what a draw gives, how texts and triples make a batch."""

from dataclasses import replace

import pytest
import torch

from scanomaly.config.vqa import VqaDataConfig
from scanomaly.data.mivqa import VqaItem, write_pictures
from scanomaly.errors import DataError
from scanomaly.records import Draw
from scanomaly.vqa import items as room
from scanomaly.vqa.items import IGNORED, VqaItems, by_triple

LENGTH, PAD = 12, 99
DATA = VqaDataConfig(resize=16, crop=12)
BY_TRIPLE = VqaDataConfig(resize=16, crop=12, items="triples")


def pack(question, answer):
    """Words as their lengths, padded; one end after the answer is a target, as in training."""
    words = [len(word) for word in f"{question} {answer}".split()][:LENGTH]
    asked = len(question.split())
    ids = words + [PAD] * (LENGTH - len(words))
    labels = [IGNORED] * asked + ids[asked : len(words) + 1]
    labels = (labels + [IGNORED] * LENGTH)[:LENGTH]
    attention = [1] * len(words) + [0] * (LENGTH - len(words))
    return torch.tensor(ids), torch.tensor(attention), torch.tensor(labels)


def replace_data(data: VqaDataConfig, **fields: object) -> VqaDataConfig:
    return data.model_copy(update=fields)


@pytest.fixture
def items(tmp_path):
    """Three questions about one triple and one about another."""
    made = []
    for name in ("a", "b"):
        pixels = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8).numpy()
        made.append(write_pictures(tmp_path, name, tuple(pixels)))
    texts = [("Is it normal?", "No.", 0), ("Why?", "An odd bright place", 0),
             ("Is it normal?", "Yes.", 1), ("Where?", "", 0)]  # fmt: skip
    return [
        VqaItem(str(number), *made[which], question, answer)
        for number, (question, answer, which) in enumerate(texts)
    ]


def test_items_of_one_triple_belong_together(items):
    grouped = by_triple(items)
    assert [[item.id for item in each] for each in grouped.values()] == [["0", "1", "3"], ["2"]]
    assert list(grouped)[1] == items[2].pictures


def test_each_question_is_an_item(items):
    data = VqaItems(items, DATA, pack)
    assert len(data) == 4
    batch = data.collate([data[Draw(None, index)] for index in (0, 1, 2)])
    assert [image.shape for image in batch.images] == [(3, 3, 12, 12)] * 3
    assert batch.triple.tolist() == [0, 1, 2]
    assert len(batch) == 3
    assert batch.ids.tolist() == [
        [2, 2, 7, 3, PAD, PAD],
        [4, 2, 3, 6, 5, PAD],
        [2, 2, 7, 4, PAD, PAD],
    ]
    assert batch.attention.sum(dim=1).tolist() == [4, 5, 4]
    assert batch.labels.tolist()[0] == [IGNORED, IGNORED, IGNORED, 3, PAD, IGNORED]


def test_each_triple_is_an_item_with_all_its_questions(items):
    data = VqaItems(items, BY_TRIPLE, pack)
    assert len(data) == 2
    batch = data.collate([data[Draw(None, index)] for index in (1, 0)])
    assert batch.images[0].shape[0] == 2
    assert batch.triple.tolist() == [0, 1, 1, 1]
    assert len(batch) == 4
    assert batch.ids[:, 0].tolist() == [2, 2, 4, 6]


def test_padding_that_all_texts_share_is_cut_and_targets_are_not(items):
    data = VqaItems(items, DATA, pack)
    long = data.collate([data[1]])
    assert long.ids.shape == (1, 6)  # five words and the end, which is a target
    assert long.labels[0, -1] == PAD
    assert long.attention[0, -1] == 0
    empty = data.collate([data[3]])
    assert empty.labels.tolist() == [[IGNORED, PAD]]


def test_a_draw_of_an_epoch_is_augmented_and_a_plain_one_is_not(items):
    data = VqaItems(items, DATA, pack, seed=3)
    images = {epoch: data[Draw(epoch, 0)].images[0] for epoch in (None, 0, 1)}
    assert torch.equal(images[None], data[0].images[0])
    assert torch.equal(images[0], data[Draw(0, 0)].images[0])
    assert torch.equal(images[0], VqaItems(items, DATA, pack, seed=3)[Draw(0, 0)].images[0])
    other = VqaItems(items, DATA, pack, seed=4)[Draw(0, 0)].images[0]
    different = [images[0], images[1], images[None], other]
    assert not any(torch.equal(a, b) for at, a in enumerate(different) for b in different[at + 1 :])


def test_pictures_are_read_once_where_memory_allows(items, monkeypatch):
    data = VqaItems(items, DATA, pack)
    first = data[0].images
    for path in items[0].pictures:
        path.unlink()
    assert all(map(torch.equal, data[1].images, first))  # another question, the same files
    monkeypatch.setattr(room, "KEPT_BYTES", 0)
    fresh = VqaItems(items, DATA, pack)
    with pytest.raises(DataError, match="cannot be read"):
        fresh[0]


def test_a_question_that_fills_all_tokens_is_refused(items):
    endless = replace(items[0], id="odd", question="why " * LENGTH)
    with pytest.raises(DataError, match="odd: its question alone fills all 12 tokens"):
        VqaItems([*items, endless], DATA, pack)
    nearly = replace(items[0], question="why " * (LENGTH - 1))
    VqaItems([nearly], DATA, pack)


def test_a_batch_moves_whole(items):
    data = VqaItems(items, DATA, pack)
    moved = data.collate([data[0]]).to("meta")
    tensors = [*moved.images, moved.ids, moved.attention, moved.labels, moved.triple]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_mirrored_item_shows_the_other_side_and_says_so(items):
    texts = ("On the left or on the Right?", "A bright right part.")
    one = replace(items[0], question=texts[0], answer=texts[1])
    swapped = ("On the right or on the Left?", "A bright left part.")
    spoken: list[tuple[str, str]] = []

    def heard(question, answer):
        spoken.append((question, answer))
        ids = torch.full((LENGTH,), ["right", "left"].index(answer.split()[2]))
        return ids, torch.ones_like(ids), ids

    plain = replace_data(DATA, jitter=0.0, crop=16)
    mirror = VqaItems([one], replace_data(plain, mirror=True), heard)
    assert spoken == [texts, swapped]
    usual, (original,) = VqaItems([one], plain, heard), mirror[0].texts
    turned = 0
    for epoch in range(20):
        example, expected = mirror[Draw(epoch, 0)], usual[Draw(epoch, 0)]
        on_other_side = int(example.texts[0][0][0]) == 1
        turned += on_other_side
        for image, before in zip(example.images, expected.images, strict=True):
            assert torch.equal(image, before.flip(-1) if on_other_side else before)
    assert 4 < turned < 16
    assert int(original[0][0]) == 0  # never where nothing is augmented
