import math

import pytest
import torch
from safetensors.torch import load_file

from golden_parity import assert_parity
from scanomaly.nn.patch_losses import (
    DETECTION_LOSSES,
    POOLINGS,
    dice,
    focal,
    level_map,
    patch_scores,
    text_logits,
)

LEVELS = range(4)


@pytest.fixture(scope="module")
def table(request):
    return load_file(request.getfixturevalue("golden")("mvfa_losses.safetensors"))


def logits(table, head: str, level: int) -> torch.Tensor:
    return text_logits(table[f"in.{head}{level}"][:, 1:], table["in.text"], 100.0)


@pytest.mark.parametrize("level", LEVELS)
def test_published_maps_and_patch_losses(table, level):
    maps = level_map(logits(table, "seg", level), (4, 4), 20)
    assert_parity(maps, table[f"out.map{level}"])
    assert_parity(focal(maps, table["in.mask"]), table[f"out.focal{level}"])
    assert_parity(dice(maps[:, 1], table["in.mask"]), table[f"out.dice{level}"])


@pytest.mark.parametrize("level", LEVELS)
def test_published_scores_and_detection_losses(table, level):
    score = patch_scores(logits(table, "det", level))
    assert_parity(score, table[f"out.score{level}"])
    assert_parity(DETECTION_LOSSES["logits"](score, table["in.label"]), table[f"out.bce{level}"])


def test_published_sums(table):
    maps = [level_map(logits(table, "seg", level), (4, 4), 20) for level in LEVELS]
    seg = sum(focal(m, table["in.mask"]) + dice(m[:, 1], table["in.mask"]) for m in maps)
    assert_parity(seg, table["out.seg_loss"])
    scores = [patch_scores(logits(table, "det", level)) for level in LEVELS]
    det = sum(DETECTION_LOSSES["logits"](score, table["in.label"]) for score in scores)
    assert_parity(det, table["out.det_loss"])


@pytest.mark.parametrize(("name", "value"), [("empty", 0.0), ("full", 1.0)])
def test_published_losses_of_empty_and_full_masks(table, name, value):
    soft, mask = table["in.soft"], torch.full_like(table["in.mask"], value)
    assert_parity(focal(soft, mask), table[f"out.focal_{name}"])
    assert_parity(dice(soft[:, 1], mask), table[f"out.dice_{name}"])


def test_masks_may_be_bool_and_losses_are_means_over_images():
    torch.manual_seed(0)
    maps = torch.randn(3, 2, 5, 5).softmax(dim=1)
    mask = torch.rand(3, 1, 5, 5) > 0.5
    pairs = zip(maps.split(1), mask.split(1), strict=True)
    alone = [(focal(m, k), dice(m[:, 1], k)) for m, k in pairs]
    torch.testing.assert_close(focal(maps, mask), sum(f for f, _ in alone) / 3)
    torch.testing.assert_close(dice(maps[:, 1], mask), sum(d for _, d in alone) / 3)
    torch.testing.assert_close(dice(maps[:, 1], mask[:, 0]), dice(maps[:, 1], mask))


def test_each_image_may_have_its_own_text():
    torch.manual_seed(0)
    tokens = torch.randn(2, 3, 4)
    texts = torch.nn.functional.normalize(torch.randn(2, 4, 2), dim=1)
    together = text_logits(tokens, texts, 7.0)
    for index in range(2):
        alone = text_logits(tokens[index : index + 1], texts[index], 7.0)
        torch.testing.assert_close(together[index : index + 1], alone)
    cosine = tokens[1, 2] @ texts[1, :, 0] / tokens[1, 2].norm()
    assert together[1, 2, 0].item() == pytest.approx(7 * cosine.item(), rel=1e-5)


def test_pooling_over_patches():
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]])  # abnormal 0.5 and 0.75
    assert patch_scores(logits).tolist() == pytest.approx([0.625])
    assert patch_scores(logits, "max").tolist() == pytest.approx([0.75])
    assert POOLINGS.keys() == {"mean", "max"}


def test_plain_bce_takes_the_score_as_the_probability_it_is():
    score, label = torch.tensor([0.25, 0.25]), torch.tensor([True, False])
    expected = -(math.log(0.25) + math.log(0.75)) / 2
    assert DETECTION_LOSSES["plain"](score, label).item() == pytest.approx(expected)
    assert DETECTION_LOSSES["logits"](score, label).item() != pytest.approx(expected, rel=0.01)
    edge = DETECTION_LOSSES["plain"](torch.tensor([1 + 1e-7]), torch.tensor([True]))
    assert edge.item() == 0
