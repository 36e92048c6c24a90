import dataclasses

import pytest
import torch

from scanomaly.records import Batch, Features, Prediction, Triple

IMAGE = torch.rand(2, 3, 4, 6)
IDS = ("a", "b")


def test_a_batch_knows_its_length_and_moves_whole():
    batch = Batch(IMAGE, IDS, torch.tensor([True, False]), torch.zeros(2, 1, 4, 6).bool())
    moved = batch.to("meta")
    assert len(batch) == len(moved) == 2
    assert moved.ids == IDS
    assert {t.device.type for t in (moved.image, moved.label, moved.mask)} == {"meta"}
    assert batch.image.device.type == "cpu"
    assert Batch(IMAGE, IDS).to("meta").mask is None


def test_a_moved_batch_still_knows_its_masks_and_data_sets():
    known = torch.tensor([True, False])
    batch = Batch(
        IMAGE, IDS, mask=torch.zeros(2, 1, 4, 6).bool(), has_mask=known, datasets=("x", "y")
    )
    moved = batch.to("meta")
    assert moved.has_mask is not None
    assert moved.has_mask.device.type == "meta"
    assert moved.datasets == ("x", "y")
    assert Batch(IMAGE, IDS).datasets == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": IMAGE[0]}, r"image of shape \(B, 3, H, W\), got \(3, 4, 6\)"),
        ({"image": IMAGE[:, :1]}, r"\(B, 3, H, W\), got \(2, 1, 4, 6\)"),
        ({"image": IMAGE.byte()}, "floating-point image, got torch.uint8"),
        ({"ids": ("a",)}, "expected 2 ids, got 1"),
        ({"label": torch.tensor([True])}, r"label \(B,\), got \(1,\)"),
        ({"mask": torch.zeros(2, 4, 6)}, r"mask \(2, 1, 4, 6\), got \(2, 4, 6\)"),
        ({"mask": torch.zeros(2, 1, 6, 4)}, r"mask \(2, 1, 4, 6\), got \(2, 1, 6, 4\)"),
        ({"has_mask": torch.tensor([True, True])}, "expected a mask beside has_mask, got None"),
        (
            {"mask": torch.zeros(2, 1, 4, 6), "has_mask": torch.tensor([True])},
            r"has_mask \(B,\), got \(1,\)",
        ),
        (
            {"mask": torch.zeros(2, 1, 4, 6), "has_mask": torch.ones(2)},
            r"bool has_mask, got torch.float32",
        ),
        ({"datasets": ("x",)}, "expected 2 datasets, got 1"),
    ],
)
def test_a_batch_of_wrong_shapes_says_what_was_expected(fields, message):
    with pytest.raises(ValueError, match=message):
        Batch(**{"image": IMAGE, "ids": IDS, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": torch.tensor(1.0)}, r"score of shape \(B,\), got \(\)"),
        ({"score": torch.rand(2, 1)}, r"score of shape \(B,\), got \(2, 1\)"),
        ({"score": torch.rand(3)}, r"anomaly_map \(3, 1, H, W\), got \(2, 1, 4, 6\)"),
        ({"anomaly_map": torch.rand(2, 4, 6)}, r"anomaly_map \(2, 1, H, W\), got \(2, 4, 6\)"),
        (
            {"reconstruction": torch.rand(2, 3, 6, 4)},
            r"reconstruction \(2, 3, 4, 6\), got \(2, 3, 6, 4\)",
        ),
        ({"parts": {"a_score": torch.rand(3)}}, r"part 'a_score' \(2,\) or .* got \(3,\)"),
        ({"parts": {"a_map": torch.rand(2, 2, 4, 6)}}, r"part 'a_map' .* got \(2, 2, 4, 6\)"),
    ],
)
def test_a_prediction_of_wrong_shapes_says_what_was_expected(fields, message):
    right = {"score": torch.rand(2), "anomaly_map": torch.rand(2, 1, 4, 6)}
    with pytest.raises(ValueError, match=message):
        Prediction(**{**right, **fields})


def test_records_cannot_be_changed_and_parts_are_not_shared():
    predictions = [Prediction(torch.rand(2), torch.rand(2, 1, 4, 6)) for _ in range(2)]
    assert predictions[0].parts == {}
    assert predictions[0].parts is not predictions[1].parts
    with pytest.raises(dataclasses.FrozenInstanceError):
        predictions[0].score = torch.rand(2)


def test_feature_maps_are_row_major():
    patches = torch.arange(2 * 6 * 3.0).view(2, 6, 3)
    features = Features((patches,), (patches[:, :0],), ((2, 3),))
    (found,) = features.maps()
    assert found.shape == (2, 3, 2, 3)
    for row in range(2):
        for column in range(3):
            assert torch.equal(found[:, :, row, column], patches[:, row * 3 + column])


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (torch.rand(2, 5, 3), "expected L = 6, got 5"),
        (torch.rand(6, 3), r"patches \(B, L, D\), got \(6, 3\)"),
    ],
)
def test_features_must_fill_their_grid(patches, message):
    with pytest.raises(ValueError, match=message):
        Features((patches,), (patches[:, :0],), ((2, 3),))


def test_a_triple_shows_the_map_through_one_range_for_all_images():
    anomaly_map = torch.stack([torch.full((1, 4, 6), 0.25), torch.full((1, 4, 6), 3.0)])
    prediction = Prediction(torch.zeros(2), anomaly_map, reconstruction=IMAGE / 2)
    triple = Triple.of(Batch(IMAGE, IDS), prediction, map_range=(0.0, 1.0))
    assert len(triple) == 2
    assert triple.ids == IDS
    assert triple.anomaly_map.shape == (2, 3, 4, 6)
    assert triple.anomaly_map[0].unique().tolist() == [0.25]  # not stretched to its own maximum
    assert triple.anomaly_map[1].unique().tolist() == [1.0]
    assert Triple.of(Batch(IMAGE, IDS), prediction, (0.2, 0.3)).anomaly_map[0, 0, 0, 0] == (
        pytest.approx(0.5)
    )
    assert Triple.of(Batch(IMAGE, IDS), prediction, (1.0, 2.0)).anomaly_map[0].max() == 0
    own = dataclasses.replace(prediction, map_range=(0.2, 0.3))
    assert Triple.of(Batch(IMAGE, IDS), own).anomaly_map[0, 0, 0, 0] == pytest.approx(0.5)
    assert Triple.of(Batch(IMAGE, IDS), own, (0.0, 1.0)).anomaly_map[0, 0, 0, 0] == 0.25
    assert [name for name, _ in zip(triple.names(), triple.pictures, strict=True)] == [
        "image",
        "anomaly_map",
        "reconstruction",
    ]
    assert triple.pictures[2] is triple.reconstruction


def test_a_prediction_without_reconstruction_makes_no_triple_and_names_who_does():
    prediction = Prediction(torch.zeros(2), torch.zeros(2, 1, 4, 6))
    with pytest.raises(ValueError, match="got none; use a method that makes one: qfae"):
        Triple.of(Batch(IMAGE, IDS), prediction)


@pytest.mark.parametrize("map_range", [(1.0, 1.0), (2.0, 1.0), (0.0, float("nan"))])
def test_a_map_range_must_have_a_width(map_range):
    prediction = Prediction(torch.zeros(2), torch.zeros(2, 1, 4, 6), reconstruction=IMAGE)
    with pytest.raises(ValueError, match="map_range of two values, the lower one first"):
        Triple.of(Batch(IMAGE, IDS), prediction, map_range)


@pytest.mark.parametrize("name", ["anomaly_map", "reconstruction"])
def test_pictures_of_a_triple_have_one_size(name):
    pictures = {"image": IMAGE, "anomaly_map": IMAGE, "reconstruction": IMAGE}
    with pytest.raises(ValueError, match=rf"expected {name} \(2, 3, 4, 6\) as the image, got"):
        Triple(**pictures | {name: torch.rand(2, 3, 4, 5)}, ids=IDS)
    with pytest.raises(ValueError, match=f"floating-point {name}"):
        Triple(**pictures | {name: IMAGE.byte()}, ids=IDS)
