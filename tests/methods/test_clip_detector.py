"""Branches, their ranges, and what labelled batches must bring."""

import pytest
import torch
from torch import Tensor

from methods.tiny_detectors import Images, LabelledImages, few_shot_mvfa, random_images
from scanomaly.errors import FitError
from scanomaly.methods import MVFA
from scanomaly.methods.base import PaperProtocol
from scanomaly.methods.clip_detector import (
    ClipDetector,
    known_masks,
    require_both_classes,
    require_labels,
    sampled,
)
from scanomaly.records import Batch, Draw


@pytest.fixture
def detector(weights) -> ClipDetector:
    config = few_shot_mvfa(weights).model_copy(update={"setting": "zero_shot"})
    return MVFA.build(config)


def raw(*values: float) -> dict[str, Tensor]:
    score = torch.tensor(values)
    return {
        "zero_map": score[:, None, None, None].expand(-1, 1, 2, 2) * 2,
        "zero_score": score,
        "zero_block_1": score,
    }


def test_extremes_are_over_all_batches(detector):
    found = detector.extremes([raw(1.0, 3.0), raw(-1.0), raw(2.0)])
    assert found.tolist() == [[-2.0, 6.0], [-1.0, 3.0]]
    with pytest.raises(ValueError, match=r"expected images .* got none"):
        detector.extremes([])


def test_branches_are_scaled_but_not_clipped(detector):
    detector.branch_ranges.copy_(torch.tensor([[0.0, 4.0], [1.0, 3.0]]))
    scaled = detector.scaled(raw(1.0, 5.0))
    assert scaled["zero_score"].tolist() == [0.0, 2.0]
    assert scaled["zero_map"].amax(dim=(1, 2, 3)).tolist() == [0.5, 2.5]
    assert scaled["zero_block_1"].tolist() == [1.0, 5.0], "no branch: as it was"


def test_a_branch_without_a_range_says_nothing(detector):
    detector.branch_ranges.copy_(torch.tensor([[0.0, 4.0], [1.0, 1.0]]))
    assert detector.scaled(raw(1.0, 5.0))["zero_score"].tolist() == [0.0, 0.0]


def test_the_paper_takes_ranges_from_the_test_set(detector):
    images = random_images(5, seed=2)
    batches = [Batch(image[None], ("x",)) for image in images]
    fitted = detector.branch_ranges.clone()
    with detector.scaled_to(batches):
        together = detector.predict(Batch(images, ("x",) * 5))
    assert torch.equal(detector.branch_ranges, fitted)
    assert together.score.min().item() == pytest.approx(0, abs=1e-5)
    assert together.score.max().item() == pytest.approx(1, abs=1e-5)
    assert together.anomaly_map.max().item() == pytest.approx(1, abs=1e-5)
    assert detector.paper == PaperProtocol(ranges_from_test=True, chosen_on_test=True)


def test_a_broken_test_image_leaves_the_fitted_ranges(detector):
    fitted = detector.branch_ranges.clone()
    with pytest.raises(ValueError, match="got none"), detector.scaled_to([]):
        pass
    with pytest.raises(ZeroDivisionError), detector.scaled_to([Batch(random_images(1), ("x",))]):
        raise ZeroDivisionError
    assert torch.equal(detector.branch_ranges, fitted)


def test_images_are_resized_as_published(detector):
    spec = detector.input_spec
    assert (spec.interpolation, spec.library) == ("bicubic", "pillow")


class OneAbnormal(LabelledImages):
    """A thousand images, of which the last alone is abnormal."""

    def __init__(self) -> None:
        super().__init__(random_images(2))

    def __len__(self) -> int:
        return 1000

    def collate(self, items: list[int]) -> Batch:
        return super().collate([int(index == len(self) - 1) for index in items])


def test_a_rare_class_that_the_sample_lacks_is_found(detector):
    data = OneAbnormal()
    sample = torch.cat([batch.label for batch in sampled(data, 50)])
    assert not sample.any(), "this test needs a sample of one class"
    ClipDetector.prepare(detector, data, 50)


class Numbers(Images):
    """Tells which were drawn."""

    def __getitem__(self, draw: Draw) -> tuple[int | None, int]:
        return draw.epoch, draw.index

    def collate(self, items: list[tuple[int | None, int]]) -> list[tuple[int | None, int]]:
        return items


def test_a_sample_is_spread_evenly_and_not_augmented():
    data = Numbers(torch.zeros(10, 3, 4, 4))
    assert list(sampled(data, 2, most=4)) == [[(None, 0), (None, 2)], [(None, 5), (None, 7)]]
    whole = [index for batch in sampled(data, 4, most=None) for _, index in batch]
    assert whole == list(range(10))


def labelled(mask: Tensor | None = None, has_mask: Tensor | None = None) -> Batch:
    return Batch(torch.zeros(2, 3, 4, 4), ("a", "b"), torch.tensor([True, False]), mask, has_mask)


def test_masks_that_are_known():
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    some = torch.tensor([True, False])
    blank, known = known_masks(labelled())
    assert (blank.shape, bool(blank.any()), known.tolist()) == ((2, 1, 4, 4), False, [False] * 2)
    assert known_masks(labelled(mask))[1].tolist() == [True, True]
    assert known_masks(labelled(mask, some))[1].tolist() == [True, False]


def test_labels_are_required():
    assert require_labels(labelled()).tolist() == [True, False]
    with pytest.raises(FitError, match="with labels, got 'a' and others without"):
        require_labels(Batch(torch.zeros(1, 3, 4, 4), ("a",)))
    require_both_classes(torch.tensor([True, False]))
    with pytest.raises(FitError, match="got 2 normal and 0 abnormal"):
        require_both_classes(torch.tensor([False, False]))
