"""Branches and levels under an image's pictures: their rows, columns, words and bytes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from scanomaly.data.transform import Box, Geometry
from scanomaly.evaluation import Evaluation
from scanomaly.panels import Panel
from scanomaly.report.html import report_html
from scanomaly.report.parts import branches_of
from scanomaly.report.pictures import SMALL, overlay, part_picture, picture_of

METHOD_SIDE = 24
NAMES = ("text_map", "text_block_2", "query_map", "query_block_2", "query_block_5")


def parted(panel: Panel, names: tuple[str, ...] = NAMES) -> Panel:
    """The panel of a method with two branches; the map of each is a column of ones."""
    height, width = panel.image.shape[:2]
    maps = {}
    for index, name in enumerate(names):
        maps[name] = np.zeros((METHOD_SIDE, METHOD_SIDE), np.float32)
        maps[name][:, index * 4 : index * 4 + 4] = 1
    whole = Box(0, 0, METHOD_SIDE, METHOD_SIDE)
    source = Box(0, 0, height, width)
    geometry = Geometry((height, width), METHOD_SIDE, source, METHOD_SIDE, whole)
    scores = {"text_score": 0.25, "query_score": -1.5}
    return replace(panel, part_maps=maps, part_scores=scores, geometry=geometry)


@pytest.fixture
def panel(evaluation: Evaluation) -> Panel:
    return parted(evaluation.panels[0])


def test_every_branch_has_its_row_and_all_rows_the_same_columns(panel: Panel) -> None:
    ((text, query),) = branches_of([panel])
    assert (text.name, query.name) == ("text", "query")
    assert list(text.pictures) == list(query.pictures) == ["map", "block 2", "block 5"]
    assert text.pictures["block 5"] is None
    assert all(query.pictures.values())
    assert (text.scores, query.scores) == (["score 0.25"], ["score -1.5"])


def test_a_score_or_a_map_alone_is_shown_under_its_own_name(panel: Panel) -> None:
    alone = replace(panel, part_maps={"edges": panel.part_maps["text_map"]}, part_scores={"age": 3})
    ((edges, age),) = branches_of([alone])
    assert (edges.name, list(edges.pictures), edges.scores) == ("edges", ["edges"], [])
    assert (age.name, dict(age.pictures), age.scores) == ("age", {}, ["age 3"])


def test_a_part_lies_over_the_image_on_the_files_own_grid(panel: Panel) -> None:
    found = panel.part_map("query_block_2")
    assert found.shape == panel.image.shape[:2]
    assert found[:, 50:62].min() == 1
    assert found[:, :40].max() == found[:, 72:].max() == 0
    plain, drawn = picture_of(panel.image, SMALL), part_picture(panel, "query_block_2")
    assert np.array_equal(drawn, overlay(plain, found))
    large = replace(panel, image=np.zeros((500, 700, 3), np.uint8))
    whole = Box(0, 0, 500, 700)
    assert large.geometry is not None
    large = replace(large, geometry=replace(large.geometry, size=(500, 700), source=whole))
    assert part_picture(large, "text_map").shape == (91, 128, 3)


def test_the_page_shows_branches_side_by_side(
    evaluation: Evaluation, variant: Callable[..., Evaluation]
) -> None:
    plain = report_html(evaluation)
    assert "maps and scores by branch" not in plain
    panels = tuple(parted(one) for one in evaluation.panels)
    page = report_html(variant(panels=panels))
    assert page.count('<div class="parts"') == 2 * len(panels)
    for name in ("text map", "text block 2", "query block 5"):
        assert f'alt="{name} of {panels[0].scored.id}"' in page
    assert f'alt="text block 5 of {panels[0].scored.id}"' not in page
    assert page.count("score -1.5") == len(panels)
    assert "Each map has one scale for all images" in page


def test_many_levels_of_large_images_stay_within_their_budget(
    evaluation: Evaluation, variant: Callable[..., Evaluation]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    names = tuple(f"zero_block_{block}" for block in range(10))
    large = replace(
        evaluation.panels[0],
        image=noise,
        anomaly_map=np.zeros((160, 160), np.float32),
        reconstruction=None,
        truth=None,
    )
    large = parted(large, names)
    bare = replace(large, part_maps={}, part_scores={})
    extra = len(report_html(variant(panels=(large,) * 8))) - len(
        report_html(variant(panels=(bare,) * 8))
    )
    assert 0.2e6 < extra < 2.1e6
