"""An evaluation to files, and its numbers to the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer


def write_reports(evaluation: Any, run: Path) -> None:
    """Into the evaluation's own folder, mirrored at the top of the run folder."""
    from scanomaly.report import write_report

    honest = evaluation.honest
    for one in filter(None, (honest, evaluation)):
        own = run / "evaluations" / f"{one.dataset}-{one.protocol}"
        report = write_report(one, own)
    write_report(evaluation, run)
    for kind in ("image", "pixel"):
        for name, estimate in getattr(evaluation, kind).items():
            beside = None if honest is None else getattr(honest, kind)[name]
            typer.echo(f"{kind} {name}: {_words(estimate)}{_gap(estimate, beside)}")
    _end(evaluation, report)


def write_vqa_reports(evaluation: Any, run: Path) -> None:
    """The same for an answerer's evaluation."""
    from scanomaly.report.vqa import write_vqa_report

    report = write_vqa_report(evaluation, run / "evaluations" / evaluation.dataset)
    write_vqa_report(evaluation, run)
    signed = evaluation.signatures
    for kind in ("closed", "open"):
        beside = getattr(evaluation, f"{kind}_baseline")
        for name, estimate in getattr(evaluation, kind).items():
            majority = beside[name].value
            words = "" if majority is None else f"; majority answer {majority:.3f}"
            typer.echo(f"{kind} {name}: {_words(estimate)}{words}; {signed[name]}")
    gain = _words(evaluation.gain)
    typer.echo(f"closed class_accuracy above the majority answer: {gain}; {signed['gain']}")
    for judge, found in evaluation.nli.items():
        for name, estimate in found.items():
            typer.echo(f"{judge} {name}: {_words(estimate)}; {signed[judge]}")
    if evaluation.open_set is not None:
        _show_open_set(evaluation.open_set, signed)
    _end(evaluation, report)


def _show_open_set(open_set: Any, signed: Mapping[str, str]) -> None:
    """Known and unknown kinds, class by class and their mean."""
    from scanomaly.report.vqa_tables import CLASS_WORDS, open_set_parts

    for kinds, part in open_set_parts(open_set).items():
        typer.echo(f"open_set {kinds}: {part.unhealthy} unhealthy, {part.healthy} healthy")
        for answer, metrics in part.classes.items():
            for name, estimate in metrics.items():
                words = f"{kinds} {CLASS_WORDS.get(answer, answer)} {name}: {_words(estimate)}"
                typer.echo(f"open_set {words}; {signed[f'open_set_{name}']}")


def _end(evaluation: Any, report: Path) -> None:
    for note in evaluation.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"report: {report.resolve()}")


def _gap(published: Any, honest: Any) -> str:
    """What the published protocol adds to the honest one, in words."""
    if honest is None or honest.value is None or published.value is None:
        return ""
    return f"; honest {honest.value:.3f}, gap {published.value - honest.value:+.3f}"


def _words(estimate: Any) -> str:
    if estimate.value is None:
        return f"undefined: {estimate.why}"
    if estimate.low is None:
        return f"{estimate.value:.3f} (no interval: {estimate.why})"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
