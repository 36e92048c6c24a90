"""What a figure shows where: panels, colours, markers, rings, words."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from scanomaly.figures import drawing
from scanomaly.figures.clouds import Cloud
from scanomaly.figures.drawing import COLOURS, Projected, draw


def panel(row: str, column: str, series: tuple[str, ...] = ("",), taught: int = 0) -> Projected:
    """Six points a series, every second one abnormal, the first `taught` of them trained on."""
    random = np.random.default_rng(len(row) + len(column))
    count = 6 * len(series)
    cloud = Cloud(
        "features",
        row,
        column,
        random.normal(size=(count, 4)).astype(np.float32),
        tuple(name for name in series for _ in range(6)),
        np.arange(count) % 6,
        np.arange(count) % 2 == 1,
    )
    return Projected(cloud, random.normal(size=(count, 2)), np.arange(count) < taught)


THREE = [panel("frozen", "block 2"), panel("frozen", "block 5"), panel("adapted", "block 5")]


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figure behind the PNG."""
    figures = []
    plain = drawing.png_of
    monkeypatch.setattr(drawing, "png_of", lambda figure: figures.append(figure) or plain(figure))

    def figure_of(*panels: Projected):
        draw(panels, "Brain, validation images", "Each point is an image.")
        return figures[-1]

    return figure_of


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_places_are_rows_and_columns_with_their_names_at_the_edge(drawn):
    figure = drawn(*THREE)
    top, right, below_left, below_right = figure.axes
    assert [axes.get_title() for axes in (top, right, below_left)] == ["block 2", "block 5", ""]
    assert top.get_ylabel() == "frozen"
    assert not below_left.axison, "nothing was given for this place"
    assert below_right.axison
    assert below_right.get_ylabel() == "adapted", "its row has no first place"
    assert legend(figure) == ["normal image", "abnormal image"]


def test_colours_are_labels_markers_are_series_and_rings_were_trained_on(drawn):
    figure = drawn(panel("embeddings", "block 2", ("text", "query"), taught=2))
    groups = figure.axes[0].collections
    colours = [to_hex(colour) for group in groups for colour in group.get_facecolors()]
    assert sorted(colours) == sorted([COLOURS[False]] * 6 + [COLOURS[True]] * 6)
    assert len({group.get_paths()[0].vertices.shape for group in groups}) == 2
    rings = [g for g in groups if to_hex(g.get_edgecolors()[0]) == drawing.LIGHT.ink]
    assert [len(ring.get_offsets()) for ring in rings] == [2]
    assert legend(figure) == ["normal image", "abnormal image", "text", "query", "trained on"]


def test_title_and_caption_are_on_the_picture(drawn):
    figure = drawn(panel("frozen", "block 2"))
    assert figure.get_suptitle() == "Brain, validation images"
    assert figure.get_supxlabel() == "Each point is an image."


def test_the_same_panels_give_the_same_bytes():
    panels = [panel("frozen", "block 2"), panel("frozen", "block 5")]
    first, again = (draw(panels, "title", "caption " * 40) for _ in range(2))
    assert first == again
    picture = Image.open(io.BytesIO(first))
    assert picture.format == "PNG"
    assert picture.width > picture.height > 300


def test_points_in_one_spot_can_be_drawn():
    one = panel("frozen", "block 2")
    assert draw([Projected(one.cloud, np.zeros((6, 2)), one.taught)], "title", "caption")
