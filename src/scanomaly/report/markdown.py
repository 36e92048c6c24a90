"""Evaluation -> a short Markdown page, for pull requests and notebooks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scanomaly.report.tables import (
    DISCLAIMER,
    MetricLine,
    count_words,
    flags_of,
    gap_lines,
    metric_lines,
    percent,
    protocol_words,
)

if TYPE_CHECKING:
    from scanomaly.evaluation import Evaluation

_SPECIAL = re.compile(r"([\\`*|<\[])")


def report_markdown(evaluation: Evaluation) -> str:
    """The text of report.md."""
    run = evaluation.run
    lines = [
        f"# {escaped(evaluation.dataset)}: {escaped(run.preset)}",
        "",
        f"Method {escaped(run.method)}, protocol {protocol_words(evaluation)}, "
        f"scored images: {count_words(evaluation.rows)}.",
        "",
        f"**{DISCLAIMER}**",
        "",
        f"| Metric (%) | Value | 95 % interval over {escaped(evaluation.resampled)} |",
        "|---|---:|---|",
        *_rows("Image", metric_lines(evaluation.image)),
        *_rows("Pixel", metric_lines(evaluation.pixel)),
        *_gap_table(evaluation),
        "",
        f"Pixel grid: {escaped(evaluation.pixel_grid)}. {_flag_words(evaluation)}",
    ]
    lines += _section("Read before trusting the numbers", evaluation.notes)
    splits = [f"{role}: {what}" for role, what in evaluation.splits.items()]
    lines += _section("Which split did what", splits)
    lines += _section("Pretrained weights and their licences", evaluation.weights)
    return "\n".join(lines) + "\n"


def _gap_table(evaluation: Evaluation) -> list[str]:
    lines = [
        f"| {escaped(line.name)} | {line.published} | {line.honest} | {line.gap} |"
        for line in gap_lines(evaluation)
    ]
    head = ["", "| Metric (%) | As published | Honest | Gap |", "|---|---:|---:|---:|"]
    return head + lines if lines else []


def _rows(level: str, lines: Sequence[MetricLine]) -> list[str]:
    return [
        f"| {level}: {escaped(line.name)} | {line.value or 'undefined'} | {_interval(line)} |"
        for line in lines
    ]


def _interval(line: MetricLine) -> str:
    bounds = f"{line.low} to {line.high}" if line.low else ""
    return ", ".join(part for part in (bounds, escaped(line.remark)) if part)


def _flag_words(evaluation: Evaluation) -> str:
    flags = flags_of(evaluation.rows)
    if flags is None or evaluation.false_alarm_rate is None:
        return "Not calibrated: nothing is flagged."
    return (
        f"At a promised false-alarm rate of at most {percent(evaluation.false_alarm_rate)} %, "
        f"{flags.normal_flagged} of {flags.normals} normal and {flags.abnormal_flagged} of "
        f"{flags.abnormals} abnormal images are flagged."
    )


def _section(title: str, items: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {escaped(item)}" for item in items)] if items else []


def escaped(text: str) -> str:
    """On one line, with everything that could become a table cell, emphasis or HTML disarmed."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
