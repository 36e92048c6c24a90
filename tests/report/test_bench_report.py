"""The three files of a table's report."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from bench.made_results import cells, full_results, made_result, small_table, write_bench
from scanomaly.bench.comparison import ComparedCell, Numbers
from scanomaly.bench.differences import RowDifference
from scanomaly.bench.findings import Findings, findings
from scanomaly.bench.tables import Cell, TableRow
from scanomaly.metrics import Estimate
from scanomaly.metrics.paired import Difference
from scanomaly.report.bench import bench_html, bench_markdown, write_bench_report
from scanomaly.report.bench_tables import (
    MINUS,
    bench_csv,
    difference_line,
    kind_tables,
    matrices,
    size_tables,
)
from scanomaly.report.page import MissingExtraError


@pytest.fixture
def found(tmp_path) -> Findings:
    results = full_results(("honest", "paper"))
    results["good", "Chest image", 2, "honest"] = "data set Chest: get it <there>."
    table = small_table(
        name="small", title="A small | table", compare=(("good", "poor"), ("poor", "good"))
    )
    write_bench(tmp_path, table, results)
    return findings(tmp_path, table)


@pytest.fixture
def noisy(tmp_path) -> Findings:
    results = {
        (row, "Brain image", 1, "honest"): made_result("Brain", 1, strength)
        for row, strength in (("good", 1.0), ("poor", 0.98))
    }
    write_bench(tmp_path, small_table(), results)
    return findings(tmp_path, small_table())


def text_of(page: str) -> str:
    words = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S)
    return " ".join(words.replace("&#43;", "+").split())


def test_html_has_every_part(found):
    page = bench_html(found)
    text = text_of(page)
    assert text.count("Research software, not a medical device.") == 2
    for heading in (
        *("Published and ours", "Missing, and what to do", "Means of columns"),
        *(
            "Paired differences",
            "By lesion size",
            "By kind of anomaly",
            "Worst misses",
            "Reproduction",
        ),
        *("Licences of weights and data sets", "Read before trusting the numbers"),
    ):
        assert f">{heading}</h2>" in page
    assert "ViT-L-14-336/openai: MIT" in text
    assert "data set Brain: CC BY-NC-SA 4.0" in text
    assert "Which split did what" not in text
    assert "good * " not in text
    assert "get it &lt;there&gt;." in page  # text is not HTML
    assert "Waiting: good, Chest image." in text
    assert not re.search(r"\b(src|href)=|url\(", page)  # asks for nothing from elsewhere
    assert "scanomaly bench run small --data DATA --out BENCH --seeds 1,2" in text


def test_means_that_the_paper_prints_stand_beside_ours(tmp_path):
    rows = tuple(
        TableRow(row.label, cells("mvfa-few", (None, None, None)), {"image.auroc": 95.0})
        for row in small_table().rows
    )
    table = small_table(rows=rows)
    write_bench(tmp_path, table, full_results())
    own = findings(tmp_path, table)
    good, poor = own.means
    assert good.ours > poor.ours
    what = "image AUROC, mean of 2 columns | 95.00 |"
    text = bench_markdown(own).replace("\\[", "[")
    assert f"| good | {what} {good.ours:.1f} [" in text
    assert f"| {good.difference:+.1f} (within noise) |" in text
    assert f"| {poor.difference:+.1f} |" in text
    assert "95.00" in bench_html(own)
    assert "1 of 2 differences from published numbers are within noise" in text
    (line, _) = list(csv.DictReader(io.StringIO(bench_csv(own))))[-2:]
    assert (line["row"], line["column"]) == ("good", "mean of 2 columns")
    assert (line["published"], line["within_noise"]) == ("95", "yes")
    assert float(line["difference"]) == pytest.approx(good.difference, rel=1e-4)
    assert "## image AUROC" in text, "its cells have nothing to stand beside: one matrix"


def test_a_mean_of_fewer_data_sets_stands_in_no_matrix(tmp_path):
    sets = ("Brain", "Chest", "Liver")

    def row(label: str, *names: str) -> TableRow:
        return TableRow(label, {f"{n} image": Cell("mvfa-few", n, "image.auroc") for n in names})

    table = small_table(
        columns=tuple(f"{name} image" for name in sets),
        rows=(row("good", *sets), row("poor", *sets[:2])),
    )
    results = {
        (one.label, column, 1, "honest"): made_result(cell.dataset, 1, 1.0)
        for one in table.rows
        for column, cell in one.cells.items()
    }
    write_bench(tmp_path, table, results)
    own = findings(tmp_path, table)
    assert [mean.columns for mean in own.means] == [3, 2]
    (matrix,) = matrices(own)
    good, poor = matrix.rows
    assert f"{own.means[0].ours:.1f}" in good[-1]
    assert poor[-2:] == ("", "")


def test_differences_of_cider_are_no_percent():
    estimate = Estimate(0.74, 0.5, 0.9)
    line = RowDifference("a", "b", "CIDEr", "open.cider", Difference(estimate, 0.01), (1,), 9)
    shown = difference_line(line)
    assert (shown.value, shown.interval) == ("+0.74", "+0.50 to +0.90")
    shown = difference_line(replace(line, metric="open.bleu_4"))
    assert (shown.value, shown.interval) == ("+74.0", "+50.0 to +90.0")


def spread(cell: ComparedCell) -> str:
    ours = cell.ours
    assert ours is not None
    return f"± {ours.std:.1f} [{ours.low:.1f}, {ours.high:.1f}] (2 seeds)"


def test_numbers_in_the_page(found):
    (cell,) = [c for c in found.cells if (c.row, c.column) == ("good", "Brain image")]
    text = text_of(bench_html(found))
    assert cell.within_noise is False
    row = (
        f"good 90 {cell.ours.mean:.1f} {spread(cell)} {cell.difference:+.1f} "
        f"{cell.honest.mean:.1f} {cell.gap:+.1f} as published"
    )
    assert row in text
    assert f"good {MINUS} poor Brain image" in text


def test_markdown_says_the_same(found):
    text = bench_markdown(found)
    (cell,) = [c for c in found.cells if (c.row, c.column) == ("good", "Brain image")]
    plain = text.replace("\\[", "[").replace("\\]", "]")
    assert f"| good | 90 | {cell.ours.mean:.1f} | {spread(cell)} |" in plain
    assert "# small: A small \\| table" in text
    assert "**Research software, not a medical device.**" in text
    assert "| good\\* | 80 |" in text
    assert "- data set Chest: get it \\<there>. Waiting: good, Chest image." in text
    assert "## Lesion size, Brain" in text
    assert "## Kind of anomaly, Brain" in text
    assert "- ViT-L-14-336/openai: MIT" in text


def test_csv_keeps_full_numbers(found):
    rows = list(csv.DictReader(io.StringIO(bench_csv(found))))
    assert len(rows) == len(found.cells) + len(found.means)
    first, cell = rows[0], found.cells[0]
    assert float(first["ours"]) == pytest.approx(cell.ours.mean, rel=1e-5)
    assert float(first["gap"]) == pytest.approx(cell.gap, rel=1e-4)
    assert (first["published"], first["protocol"], first["seeds"]) == ("90", "paper", "1 2")
    (chest,) = [r for r in rows if (r["row"], r["column"]) == ("good", "Chest image")]
    assert chest["missing"] == "data set Chest: get it <there>."
    assert {row["preset"] for row in rows} == {"mvfa-few", "iqe-few", ""}


def test_a_difference_within_noise_is_marked(noisy):
    page, text = bench_html(noisy), bench_markdown(noisy)
    assert '<td class="noise">within noise</td>' in page
    warning = "1 of 1 paired differences are within noise"
    assert warning in page
    assert warning in text


def test_a_published_number_within_our_noise_is_marked(tmp_path):
    results = full_results()
    (mean,) = {made_result("Chest", 1, 2.5).metrics["image.auroc"].value}
    near = cells("mvfa-few", (1.0, 90.1, 100 * mean))  # pixel values of both seeds: 90
    table = small_table(rows=(TableRow("good", near), small_table().rows[1]))
    write_bench(tmp_path, table, results)
    found = findings(tmp_path, table)
    verdicts = {one.column: one.within_noise for one in found.cells if one.row == "good"}
    assert verdicts == {"Brain image": False, "Brain pixel": False, "Chest image": True}
    (chest,) = [one for one in found.cells if (one.row, one.column) == ("good", "Chest image")]
    assert chest.ours.low < 100 * mean < chest.ours.high
    marked = f"{chest.difference:+.1f} (within noise)"
    assert marked in bench_markdown(found)
    assert marked in text_of(bench_html(found))
    warning = "differences from published numbers are within noise: the paper's number lies in our"
    assert warning in bench_markdown(found)
    rows = list(csv.DictReader(io.StringIO(bench_csv(found))))
    assert [row["within_noise"] for row in rows[:3]] == ["no", "no", "yes"]


def test_without_an_interval_the_seeds_decide(found):
    (one,) = [c for c in found.cells if (c.row, c.column) == ("good", "Brain image")]
    for published, verdict in ((80.5, True), (79.0, True), (78.9, False)):
        ours = Numbers(80.0, 1.0, None, None, (1, 2), (79.0, 81.0))
        cell = replace(one.cell, published=published)
        assert replace(one, cell=cell, ours=ours).within_noise is verdict
        single = replace(ours, std=None)
        assert replace(one, cell=cell, ours=single).within_noise is None


def test_clear_differences_bring_no_warning(found):
    assert "paired differences are within noise" not in bench_html(found)
    assert "| clear |" in bench_markdown(found)


def test_sizes_in_order(found):
    (table,) = size_tables(found.sizes)
    assert table.strata == ["2.5-5 % (n = 7)"]
    assert [row for row, _ in table.rows] == ["good", "poor"]
    (kinds,) = kind_tables(found.kinds)
    assert kinds.strata == ["cyst (n = 7)"]
    assert kinds.rows == table.rows


def test_files(found, tmp_path, monkeypatch):
    path = write_bench_report(found, tmp_path / "report")
    assert sorted(file.name for file in path.parent.iterdir()) == [
        *("small.csv", "small.html", "small.md"),
    ]
    monkeypatch.setattr("scanomaly.report.page.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"small.csv and small.md are written"):
        write_bench_report(found, tmp_path / "again")
    assert (tmp_path / "again" / "small.md").exists()


def test_a_table_of_our_own_is_a_matrix(found):
    own = [replace(one, cell=replace(one.cell, published=None)) for one in found.cells]
    bare = tuple(
        replace(row, cells={n: replace(c, published=None) for n, c in row.cells.items()})
        for row in found.table.rows
    )
    ours = replace(found, cells=own, table=replace(found.table, rows=bare))
    (cell,) = [c for c in own if (c.row, c.column) == ("good", "Brain image")]
    numbers = f"{cell.ours.mean:.1f} [{cell.ours.low:.1f}, {cell.ours.high:.1f}]"
    plain = bench_markdown(ours).replace("\\[", "[")
    (row,) = [line for line in plain.splitlines() if line.startswith(f"| good | {numbers} |")]
    columns = {one.cell.dataset for one in own if one.cell.metric == cell.cell.metric}
    assert row.count("|") == len(["row", *columns, "mean"]) + 1
    assert numbers in text_of(bench_html(ours))
    for write in (bench_markdown, bench_html):
        assert "Protocol of ours" not in write(ours)
        assert "Protocol of ours" in write(found)
