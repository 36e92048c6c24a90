"""The four files of a report, whole: what they say, and what happens where something is missing."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scanomaly.errors import ScanomalyError
from scanomaly.evaluation import Evaluation
from scanomaly.files import DiskError
from scanomaly.metrics import Estimate
from scanomaly.report import MissingExtraError, write_report
from scanomaly.report.html import report_html
from scanomaly.report.markdown import report_markdown
from scanomaly.report.tables import metric_lines

VOID = {"meta", "img", "source", "br"}
FILES = ["metrics.json", "predictions.csv", "report.html", "report.md"]


class Page(HTMLParser):
    """Visible text, links and pictures; checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.alternatives: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.addresses += [str(values[key]) for key in ("src", "srcset", "href") if key in values]
        if tag == "img":
            self.alternatives.append(str(values["alt"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> Page:
    return Page(report_html(evaluation))


def test_writes_four_files_and_nothing_else(evaluation: Evaluation, tmp_path: Path) -> None:
    folder = tmp_path / "evaluations" / "phantom-honest"
    path = write_report(evaluation, folder)
    assert path == folder / "report.html"
    assert sorted(file.name for file in folder.iterdir()) == FILES
    first = path.read_bytes()
    assert len(first) < 3e6
    assert write_report(evaluation, folder).read_bytes() == first


def test_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_page_says_what_it_must(page: Page, evaluation: Evaluation) -> None:
    assert "Research software, not a medical device." in page.text
    for words in (
        "phantom: qfae-offline",
        "our own measurements",
        "80 (40 normal, 40 abnormal) of 40 patients",
        "bootstrap over patients",
        "model 96x96",
        "run.yaml",
        "43 ms per image",
        *evaluation.weights,
        *evaluation.splits.values(),
    ):
        assert words in page.text
    value = evaluation.image["auroc"].value
    assert value is not None
    assert f"AUROC {100 * value:.1f}" in page.text


def test_page_compares_false_alarms_with_the_promise(page: Page, evaluation: Evaluation) -> None:
    false = sum(bool(row.flagged and not row.label) for row in evaluation.rows)
    assert f"Normal {false} {40 - false} 40" in page.text
    assert f"observed {100 * false / 40:.1f} % of normal images" in page.text
    assert "promised at most 5.0 %" in page.text


def test_panels_are_grouped_and_captioned(page: Page, evaluation: Evaluation) -> None:
    titles = ["Hits", "Misses", "False alarms", "Correct rejections"]
    assert re.findall("|".join(titles), page.text)[:4] == titles
    for panel in evaluation.panels:
        assert panel.scored.id in page.text
        assert f"score {panel.scored.score:.4g}" in page.text
        assert f"Anomaly map of {panel.scored.id}" in page.alternatives
    truths = [text for text in page.alternatives if text.startswith("Truth of")]
    assert len(truths) == sum(panel.kind in ("hit", "miss") for panel in evaluation.panels)


def test_no_reconstruction_no_column(variant: Callable[..., Evaluation]) -> None:
    panels = variant().panels
    html = report_html(variant(panels=tuple(replace(one, reconstruction=None) for one in panels)))
    assert "Reconstruction" not in html
    some = (replace(panels[0], reconstruction=None), *panels[1:])
    assert "Reconstruction" in report_html(variant(panels=some))


def test_texts_are_escaped(variant: Callable[..., Evaluation]) -> None:
    evil = '<script>alert("1")</script>'
    panels = variant().panels
    scored = replace(panels[0].scored, id=evil, patient="<i>")
    changed = variant(
        dataset=evil, notes=(evil,), weights=(evil,), panels=(replace(panels[0], scored=scored),)
    )
    page = Page(report_html(changed))
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.text.count(evil) >= 4
    assert "<script>" not in report_markdown(changed).replace("\\<script>", "")


def test_notes_are_a_warning_box(variant: Callable[..., Evaluation]) -> None:
    assert "aside" not in Page(report_html(variant())).tags
    page = Page(report_html(variant(notes=("3 patients occur in both train and test.",))))
    assert "aside" in page.tags
    assert "3 patients occur in both train and test." in page.text


def bare(variant: Callable[..., Evaluation]) -> Evaluation:
    """Normal images without masks, calibration, patients, panels, weights."""
    rows = tuple(
        replace(row, patient=None, p_value=None, flagged=None)
        for row in variant().rows
        if not row.label
    )
    why = "one class only: 40 normal, 0 abnormal images"
    return variant(
        rows=rows,
        image={"auroc": Estimate.undefined(why)},
        pixel={"auroc": Estimate.undefined("undefined: this data set has no masks")},
        by_size={},
        by_kind={},
        panels=(),
        threshold=None,
        false_alarm_rate=None,
        resampled="images (patients are unknown)",
        weights=(),
        splits={},
        pixel_grid="native, each file's own",
    )


def test_a_bare_evaluation_gives_reasons(
    variant: Callable[..., Evaluation], tmp_path: Path
) -> None:
    page = Page(write_report(bare(variant), tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("one class only: 40 normal, 0 abnormal images") == 3
    assert "this data set has no masks" in page.text
    assert "Not calibrated" in page.text
    assert "--pixel-grid native" in page.text
    for absent in ("Single images", "Pretrained weights", "Sensitivity by lesion size"):
        assert absent not in page.text


def test_calibration_that_cannot_flag_says_so(variant: Callable[..., Evaluation]) -> None:
    rows = tuple(replace(row, flagged=False) for row in variant().rows)
    page = Page(report_html(variant(rows=rows, threshold=None)))
    assert "No score can be flagged" in page.text


def test_markdown_is_short_and_complete(variant: Callable[..., Evaluation]) -> None:
    evaluation = variant(notes=("a | b",))
    text = report_markdown(evaluation)
    auroc = metric_lines(evaluation.image)[0]
    assert f"| Image: AUROC | {auroc.value} | {auroc.low} to {auroc.high} |" in text
    assert "Research software, not a medical device." in text
    assert "- a \\| b" in text
    assert "- trained: train: 400 normal images of 50 patients" in text
    assert evaluation.weights[0] in text
    assert "at most 5.0 %" in text
    assert len(text.splitlines()) < 40


def test_markdown_of_a_bare_evaluation(variant: Callable[..., Evaluation]) -> None:
    text = report_markdown(bare(variant))
    assert "| Pixel: AUROC | undefined | this data set has no masks |" in text
    assert "Not calibrated" in text
    assert "##" not in text


def test_missing_extra_keeps_the_numbers(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        MissingExtraError, match=r'jinja2.*pip install "scanomaly\[report\]"'
    ) as got:
        write_report(evaluation, tmp_path)
    assert isinstance(got.value, ScanomalyError)
    assert isinstance(got.value, ImportError)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        name for name in FILES if name != "report.html"
    ]


def test_a_file_that_cannot_be_written(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").mkdir()
    with pytest.raises(DiskError, match=r"predictions\.csv"):
        write_report(evaluation, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json", "predictions.csv"]
