"""bench list and bench report as commands."""

from __future__ import annotations

import pytest

from bench.made_results import cells, full_results, small_table, write_bench
from scanomaly.bench import tables
from scanomaly.bench.tables import Cell, TableRow
from scanomaly.cli.bench import _pair
from scanomaly.errors import ConfigError
from scanomaly.report.bench_tables import MINUS, NOTHING


@pytest.fixture
def small(monkeypatch):
    """The small table under a name of its own, with a comma in a label."""
    table = small_table(
        rows=(*small_table().rows, TableRow("MVFA, K = 4", cells("mvfa-few", (1, 2, 3))))
    )
    monkeypatch.setattr(tables, "TABLES", {"small": lambda: table})
    return table


@pytest.fixture
def bench(tmp_path, small):
    results = full_results()
    results["MVFA, K = 4", "Brain image", 1, "honest"] = None
    write_bench(tmp_path / "bench", small, results)
    return tmp_path / "bench"


RIVAL = TableRow("rival", cells(None, (77.7, 66.6, 55.5)))


def test_rows_that_are_only_printed(small, monkeypatch, tmp_path, command):
    table = small_table(rows=(*small_table().rows, RIVAL))
    monkeypatch.setattr(tables, "TABLES", {"small": lambda: table})
    listed = command("bench", "list", "small").out
    assert "published only" in listed
    assert "77.7" in listed
    assert "of 6 numbers" in listed
    write_bench(tmp_path, table, full_results())
    done = command("bench", "report", tmp_path)
    assert "12 of 12 runs finished" in done.out
    assert "missing" not in done.out
    text = (tmp_path / "report" / "small.md").read_text("utf-8")
    assert f"| rival | 77.7 | {NOTHING} |  |  |  |  | published only |" in text
    page = (tmp_path / "report" / "small.html").read_text("utf-8")
    assert f'<td class="number">77.7</td><td class="number">{NOTHING}</td>' in page


def test_list_names_every_table_and_what_it_needs(small, command):
    out = command("bench", "list").out
    for words in ("small", "A small table", "BMAD", "ViT-L-14-336/openai: MIT"):
        assert words in out


def test_list_shows_one_table_row_by_row(small, command):
    out = command("bench", "list", "small").out
    for words in ("MVFA, K = 4", "iqe-few", "60.5", "note: a note of the table"):
        assert words in out
    assert "seeds 1, 2; 1 GPU hours a seed" in out


def test_list_shows_means_and_deviations(monkeypatch, command):
    spread = {"Brain image": Cell("mvfa-few", "Brain", "image.auroc", 94.3, (), 0.18)}
    rows = (TableRow("level 1", cells("mvfa-few", (None,) * 3), {"image.auroc": 81.25}),)
    table = small_table(rows=(*rows, TableRow("all", spread)), compare=())
    monkeypatch.setattr(tables, "TABLES", {"small": lambda: table})
    head, first, second = (
        line.split() for line in command("bench", "list", "small").out.splitlines()[3:6]
    )
    assert head[-2:] == ["mean", "image.auroc"]
    assert first[-1] == "81.25"
    assert second[-3:] == ["94.3", "±", "0.18"]


def test_report_writes_three_files_and_says_what_is_missing(bench, command):
    done = command("bench", "report", bench)
    assert done.code == 0, done.err
    assert "12 of 13 runs finished, 3 of 9 numbers missing" in done.out
    assert {file.suffix for file in (bench / "report").iterdir()} == {".html", ".md", ".csv"}


def test_report_compares_further_rows(bench, command):
    done = command("bench", "report", bench, "--compare", "poor,good")
    assert done.code == 0, done.err
    assert f"| poor {MINUS} good | Brain image |" in (bench / "report" / "small.md").read_text(
        "utf-8"
    )


def test_mistakes_are_one_line(bench, tmp_path, refused):
    refused("no table 'large'; there are small", "bench", "report", bench, "--table", "large")
    refused(
        "expected two different rows.*there are good; poor",
        *("bench", "report", bench, "--compare", "good,best"),
    )
    refused("expected a bench folder with plans, found none", "bench", "report", tmp_path)


def test_labels_with_commas_can_be_compared():
    labels = ["MVFA", "MVFA, K = 4", "PatchCore"]
    assert _pair("MVFA, K = 4,PatchCore", labels) == ("MVFA, K = 4", "PatchCore")
    assert _pair("MVFA,MVFA, K = 4", labels) == ("MVFA", "MVFA, K = 4")
    assert _pair("PatchCore, MVFA", labels) == ("PatchCore", "MVFA")
    with pytest.raises(ConfigError, match="there are MVFA; MVFA, K = 4; PatchCore"):
        _pair("MVFA,MVFA", labels)
