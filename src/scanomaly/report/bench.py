"""Findings of a table -> TABLE.csv, TABLE.md and TABLE.html."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scanomaly.files import write_text
from scanomaly.report.bench_tables import (
    INCOMPLETE,
    StratumTable,
    bench_csv,
    columns,
    difference_line,
    kind_tables,
    marked,
    matrices,
    mean_line,
    miss_line,
    missing_lines,
    noise_warnings,
    size_tables,
)
from scanomaly.report.markdown import escaped
from scanomaly.report.page import PageHead, render, require_extra
from scanomaly.report.tables import DISCLAIMER

if TYPE_CHECKING:
    from scanomaly.bench.findings import Findings

TEMPLATE = "bench.html.j2"
HEAD = ("Row", "Paper", "Ours", "Spread", "Difference", "Honest", "Gap", "Protocol of ours")
DIFFERENCE_HEAD = ("Rows", "Column", "Difference", "95 % interval", "p", "")
MEAN_HEAD = ("Row", "What", "Paper", "Ours", "Difference")
MISS_HEAD = (
    *("Data set", "Row", "Seed", "Image", "Patient", "Score"),
    "Normal images that score as high (%)",
)
UNITS = (
    "In percent, but CIDEr (0 to 10). Difference: ours above the paper's number. Gap: what the "
    "published protocol adds to the honest one. Spread: standard deviation over seeds, and the "
    "95 % interval over patients."
)
OWN_UNITS = (
    "In percent, means over seeds with 95 % intervals over patients, which do not hold what "
    "another training would change."
)
PAIRED = (
    "Both rows on the same images, seeds averaged, the same patients resampled on both sides 1,000 "
    "times; p is two-sided and not corrected for the number of comparisons. Intervals hold what "
    "other patients would change, not what another training would."
)
OWN_PATIENTS = "Each seed has patients of its own: intervals resample all of them."
CHANGED = "--set changed the experiments: these are not the table's own."


@dataclass(frozen=True, slots=True)
class _Title:
    """Where the frame of a page looks for the name of a preset."""

    preset: str


def write_bench_report(findings: Findings, folder: Path) -> Path:
    """Write TABLE.csv, TABLE.md and TABLE.html; returns the last one's path.

    Raises DiskError, and MissingExtraError after the first two, which need no extra, are safe.
    """
    name = findings.table.name
    write_text(folder / f"{name}.csv", bench_csv(findings))
    write_text(folder / f"{name}.md", bench_markdown(findings))
    path = folder / f"{name}.html"
    require_extra(path, f"{name}.csv and {name}.md")
    write_text(path, bench_html(findings))
    return path


def bench_html(findings: Findings) -> str:
    """The text of TABLE.html. Needs jinja2."""
    head = PageHead(
        dataset=findings.table.name,
        run=_Title(findings.table.title),
        notes=_notes(findings),
        splits={},
        weights=findings.licences,
    )
    own = matrices(findings)
    context = {
        "evaluation": head,
        "matrices": own,
        "disclaimer": DISCLAIMER,
        "facts": _facts(findings),
        "columns": columns(findings),
        "means": _means(findings),
        "mean_head": MEAN_HEAD,
        "differences": [difference_line(one) for one in findings.differences],
        "sizes": size_tables(findings.sizes),
        "kinds": kind_tables(findings.kinds),
        "misses": [miss_line(one) for one in findings.misses],
        "miss_head": MISS_HEAD,
        "missing": missing_lines(findings),
        "units": OWN_UNITS if own else UNITS,
        "paired": PAIRED,
        "commands": _commands(findings),
    }
    return render(TEMPLATE, context)


def bench_markdown(findings: Findings) -> str:
    """The text of TABLE.md."""
    table = findings.table
    lines = [f"# {escaped(table.name)}: {escaped(table.title)}", "", f"**{DISCLAIMER}**", ""]
    lines += [f"- {escaped(name)}: {escaped(value)}" for name, value in _facts(findings)]
    own = matrices(findings)
    lines += ["", OWN_UNITS if own else UNITS]
    for one in own:
        lines += ["", f"## {escaped(one.title)}", "", *_table(("Row", *one.head), one.rows)]
    if not own:
        lines += _beside_published(findings)
    if any(cell.missing for cell in findings.cells):
        lines += ["", r"\* not complete, see below."]
    lines += _part("Means of columns", MEAN_HEAD, _means(findings))
    paired = [difference_line(one) for one in findings.differences]
    lines += _part(
        "Paired differences",
        DIFFERENCE_HEAD,
        [(one.rows, one.column, one.value, one.interval, one.p, one.verdict) for one in paired],
        PAIRED,
    )
    lines += _strata("Lesion size", size_tables(findings.sizes))
    lines += _strata("Kind of anomaly", kind_tables(findings.kinds))
    lines += _part("Worst misses", MISS_HEAD, [miss_line(one) for one in findings.misses])
    waiting = [f"{reason} Waiting: {names}." for reason, names in missing_lines(findings)]
    lines += _list("Missing, and what to do", waiting)
    lines += _list("Read before trusting the numbers", _notes(findings))
    lines += _list("Licences", findings.licences)
    return "\n".join(lines) + "\n"


def _beside_published(findings: Findings) -> list[str]:
    """A table for each column."""
    lines: list[str] = []
    for column, rows in columns(findings):
        cells = [
            (
                f"{line.row}{INCOMPLETE if line.incomplete else ''}",
                *(line.published, line.ours, line.spread),
                marked(line.difference, line.noise),
                *(line.honest, line.gap, line.protocol),
            )
            for line in rows
        ]
        lines += ["", f"## {escaped(column)}", "", *_table(HEAD, cells)]
    return lines


def _means(findings: Findings) -> list[tuple[str, ...]]:
    """Of a table of our own they stand behind its rows."""
    return [mean_line(one) for one in findings.means] if findings.table.has_published else []


def _facts(findings: Findings) -> list[tuple[str, str]]:
    facts = [
        ("Source", findings.table.source),
        ("Runs", f"{findings.finished} of {findings.planned} finished"),
        ("Computed in", f"{findings.seconds / 3600:.2f} hours, all runs together"),
    ]
    options = [("Changed with --set", " ".join(findings.options))] if findings.options else []
    return facts + options


def _notes(findings: Findings) -> list[str]:
    changed = [CHANGED] if findings.options else []
    patients = [OWN_PATIENTS] if findings.own_patients else []
    warnings = noise_warnings(findings)
    return [*changed, *warnings, *findings.table.notes, *patients, *findings.notes]


def _commands(findings: Findings) -> list[str]:
    options = "".join(f" --set '{option}'" for option in findings.options)
    seeds = sorted({seed for one in findings.cells if one.ours for seed in one.ours.seeds})
    chosen = f" --seeds {','.join(map(str, seeds))}" if seeds else ""
    name, data = findings.table.name, "" if findings.simulated else " --data DATA"
    return [
        f"scanomaly bench run {name}{data} --out BENCH{chosen}{options}",
        f"scanomaly bench report BENCH --table {name}",
    ]


def _strata(title: str, tables: Sequence[StratumTable]) -> Iterator[str]:
    for table in tables:
        rows = [
            (row, *(" / ".join(filter(None, cell)) for cell in cells)) for row, cells in table.rows
        ]
        whole = f"{title}, {table.dataset}: AUROC / sensitivity at 95 % specificity (%)"
        yield from _part(whole, ("Row", *table.strata), rows)


def _part(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], words: str = ""
) -> list[str]:
    """A headed table; nothing without rows."""
    if not rows:
        return []
    return ["", f"## {escaped(title)}", "", *([words, ""] if words else []), *_table(head, rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(escaped(cell) for cell in cells)} |"


def _list(title: str, items: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {escaped(item)}" for item in items)] if items else []
