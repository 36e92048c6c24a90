"""Which images are shown, which files are written, and what is said of them."""

import csv
from dataclasses import replace

import pytest

from scanomaly.errors import DataError
from scanomaly.figures import clouds, write, write_figures
from scanomaly.figures.write import shown_images
from scanomaly.report import MissingExtraError


@pytest.fixture
def quickly(monkeypatch) -> None:
    """Two channels in place of t-SNE."""
    monkeypatch.setattr(write, "project", lambda vectors, seed: vectors[:, :2] + seed)


@pytest.fixture
def captions(quickly, monkeypatch) -> list[tuple[str, str]]:
    """Title and caption of every figure, instead of pictures."""
    told: list[tuple[str, str]] = []

    def draw(panels, title, caption, point) -> bytes:
        told.append((title, caption))
        return b"PNG"

    monkeypatch.setattr(write, "draw", draw)
    return told


def lines(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_picture_for_each_figure_and_a_table_of_points(bench, tmp_path, captions):
    told: list[tuple[int, int]] = []
    written = write_figures(
        bench.fitted,
        bench.manifest,
        tmp_path / "figures",
        progress=lambda done, total: told.append((done, total)),
    )
    names = ["tsne-features-images.png", "tsne-prompts-images.png", "points-images.csv"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(names)
    assert told == [(1, 3), (2, 3), (3, 3)]
    points = lines(written[-1])
    assert len(points) == 4 * 28
    first = points[0]
    assert (first["figure"], first["row"], first["column"]) == ("features", "frozen", "block 0")
    labels = {row.id: str(int(row.label)) for row in bench.manifest}
    assert {point["id"]: point["label"] for point in points} == labels
    assert {point["series"] for point in points} == {"", "text", "query"}
    assert len({(point["x"], point["y"]) for point in points[:28]}) == 28

    title, caption = captions[0]
    assert title == "Brain, validation images (14 normal, 14 abnormal): features of tiny"
    for words in ("Each point belongs to one image", "perplexity 9, seed 0", "Trained on nothing."):
        assert words in caption
    assert "No test image is shown." in caption
    assert "perplexity 18" in captions[1][1], "twice as many points"


def test_patches_have_files_of_their_own(bench, tmp_path, captions):
    written = write_figures(bench.fitted, bench.manifest, tmp_path, kind="patches", seed=2)
    assert [path.name for path in written] == ["tsne-features-patches.png", "points-patches.csv"]
    assert "Each point is a patch, up to 8 of each class" in captions[0][1]
    assert "seed 2" in captions[0][1]


def test_a_real_picture_is_written_too(bench, tmp_path, quickly):
    written = write_figures(bench.fitted, bench.manifest, tmp_path)
    assert written[0].read_bytes().startswith(b"\x89PNG")


def test_only_labelled_images_of_the_split_are_shown(bench):
    rows = list(bench.manifest.rows)
    rows[0] = replace(rows[0], label=None)
    rows[1] = replace(rows[1], split="test")
    rows[2] = replace(rows[2], split="train")
    found, words = shown_images(replace(bench.manifest, rows=tuple(rows)), "valid", 0)
    assert found.rows == tuple(rows[3:])
    assert words.startswith("validation images (")


def test_of_very_many_images_some_are_drawn(bench, monkeypatch):
    monkeypatch.setattr(write, "MOST_IMAGES", 10)
    found, words = shown_images(bench.manifest, "valid", 0)
    assert len(found) == 10
    assert "10 of 28 at random" in words
    assert shown_images(bench.manifest, "valid", 0)[0] == found
    assert shown_images(bench.manifest, "valid", 1)[0] != found


@pytest.mark.parametrize(("split", "other"), [("valid", "train"), ("train", "valid")])
def test_too_few_labelled_images(bench, split, other):
    rows = tuple(replace(row, split="test") for row in bench.manifest)
    few = replace(bench.manifest, rows=rows)
    message = rf"Brain: expected at least 6 labelled images in {split} to show, found 0 .*"
    with pytest.raises(DataError, match=rf"{message}--split {other}\. Figures never show the test"):
        shown_images(few, split, 0)


def test_too_few_patches(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(clouds, "PATCHES_OF_A_CLASS", 0)
    with pytest.raises(DataError, match=r"at least 6 points for frozen, block 0, found 0; give"):
        write_figures(bench.fitted, bench.manifest, tmp_path, kind="patches")


def test_without_matplotlib(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'need matplotlib, .* "scanomaly\[report\]"'):
        write_figures(bench.fitted, bench.manifest, tmp_path)
    assert not list(tmp_path.iterdir())
