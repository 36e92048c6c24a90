"""The verbs of the benchmark: bench list, bench run, bench report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanomaly.cli.app import FAILED, SetOption, app, console, progress_bar
from scanomaly.errors import ConfigError

if TYPE_CHECKING:
    from scanomaly.bench.execution import Executor
    from scanomaly.bench.findings import Findings
    from scanomaly.bench.grid import Progress, Summary
    from scanomaly.bench.jobs import Protocol
    from scanomaly.bench.planning import Planned
    from scanomaly.bench.tables.table import Cell, Table

bench_app = typer.Typer(
    help="The papers' tables, and our own, as commands: ours beside the published numbers.",
    no_args_is_help=True,
)
app.add_typer(bench_app, name="bench")

PROTOCOLS = ("honest", "paper")

OutOption = Annotated[
    Path, typer.Option("--out", help="Bench folder; with --ray on a disk that all machines share.")
]


@bench_app.command("run")
def bench_run(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="See `scanomaly bench list`.")],
    out: OutOption = Path("bench"),
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of data sets; tables of simulated images do without."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Such as 42,7; the table's own without it.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="honest, paper, or honest,paper; both where published."),
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", help="auto, or HOST:PORT of a Ray cluster's head.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Jobs at once; with --ray at most.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Of each job; with --ray its CPUs.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="The first seed alone.")] = False,
    assignments: SetOption = None,
) -> None:
    """Compute what is not yet there of a table; the same command goes on after a stop."""
    from scanomaly.bench.grid import run_grid
    from scanomaly.bench.planning import Wanted, plan_table
    from scanomaly.bench.tables import table

    known = table(name)
    chosen = _seeds(seeds, known)[: 1 if quick else None]
    wanted = Wanted(
        table=known,
        seeds=chosen,
        protocols=_protocols(protocol, known),
        data=_data(known, data, out, chosen),
        options=tuple(assignments or ()),
        device=device.partition(":")[0],  # each worker sees its own alone
        weights_are_here=ray is None,
    )
    planned = plan_table(wanted, out)
    for reason, numbers in planned.missing.items():
        typer.echo(f"missing for {numbers} numbers: {reason}", err=True)
    if not planned.tasks:
        raise ConfigError(f"{name}: nothing can be computed; what is missing is listed above.")

    def executor(tasks: int) -> Executor:
        return _executor(tasks, ray, workers, threads, device)

    with _telling() as tell:
        summary = run_grid(planned.tasks, executor, tell)
    _show(summary, planned, out)


def _seeds(given: str | None, table: Table) -> tuple[int, ...]:
    if given is None:
        return table.seeds
    try:
        return tuple(dict.fromkeys(int(word) for word in given.split(",")))
    except ValueError:
        raise ConfigError(f"--seeds {given}: expected numbers such as 42,7,13.") from None


def _protocols(given: str | None, table: Table) -> tuple[Protocol, ...]:
    """Both where there is something published to compare with."""
    if given is None:
        return ("honest", "paper") if table.has_published else ("honest",)
    words = tuple(dict.fromkeys(given.split(",")))
    if not set(words) <= set(PROTOCOLS):
        raise ConfigError(f"--protocol {given}: expected honest, paper, or honest,paper.")
    return words  # type: ignore[return-value]


def _data(
    table: Table, data: Path | None, out: Path, seeds: tuple[int, ...]
) -> Callable[[int], Path]:
    """Seed -> folder of data sets; simulated first where that is the table's way."""
    from scanomaly.bench.simulation import simulate, simulated_folder
    from scanomaly.bench.tables import TABLES

    if data is not None:
        return lambda seed: data
    if not table.own_patients:
        own = [name for name, make in TABLES.items() if make().own_patients]
        raise ConfigError(
            f"{table.name} needs --data: a folder with {', '.join(table.datasets)}; only "
            f"{' and '.join(own)} simulate their own."
        )
    for seed in seeds:
        with progress_bar(f"simulating, seed {seed}") as progress:
            simulate(out, seed, progress=progress)
    return lambda seed: simulated_folder(out, seed)


def _executor(
    tasks: int, ray: str | None, workers: int | None, threads: int | None, device: str
) -> Executor:
    """A cluster where one is named, else processes here that share its cores."""
    from scanomaly.bench.local_pool import LocalPool, cuda_devices
    from scanomaly.bench.ray_pool import AT_ONCE, RayPool

    if ray is not None:
        kind = device.partition(":")[0]
        gpus = None if kind == "auto" else int(kind == "cuda")
        return RayPool(ray, threads or 1, gpus, workers or AT_ONCE)
    cards = cuda_devices(device)
    cores = os.cpu_count() or 1
    count = min(workers or len(cards) or min(2, cores), tasks)
    return LocalPool(count, threads or max(1, cores // count), cards)


@contextmanager
def _telling() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line for each job elsewhere; failures are lines in both."""
    with progress_bar("bench") as bar:

        def tell(progress: Progress) -> None:
            outcome, left = progress.outcome, _time(progress.left)
            bar(progress.done, progress.total, f"{left} left; last: {outcome.task.words}")
            if outcome.failure is None and sys.stderr.isatty():
                return
            end = "done" if outcome.failure is None else f"FAILED: {outcome.failure.message}"
            where = f"{progress.done}/{progress.total} {outcome.task.words}"
            typer.echo(f"{where}: {end} ({_time(outcome.seconds)}; {left} left)", err=True)

        yield tell


def _time(seconds: float) -> str:
    """Such as 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show(summary: Summary, planned: Planned, out: Path) -> None:
    """What the command came to. Raises Exit where something failed."""
    for outcome in summary.failures:
        assert outcome.failure is not None  # that is why it is among them
        typer.echo(f"failed: {outcome.task.words}: {outcome.failure.message}", err=True)
        typer.echo(f"  {outcome.task.folder}", err=True)
    words = f"{summary.computed} jobs computed, {summary.kept} had been finished before"
    failed = len(summary.failures)
    words += f", {failed} failed (the same command tries them again)" if failed else ""
    lacking = planned.lacking
    words += f", {lacking} numbers missing" if lacking else ""
    typer.echo(f"{words}: {out}")
    typer.echo(f"report: scanomaly bench report {out}")
    if failed:
        raise typer.Exit(FAILED)


@bench_app.command("list")
def bench_list(
    name: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="One table, row by row.")
    ] = None,
) -> None:
    """Every table and what it needs: data, weights with licences, hours; what runs offline."""
    from scanomaly.bench.tables import TABLES, table

    if name is not None:
        _show_table(table(name))
        return
    _show_tables([make() for make in TABLES.values()])


def _show_tables(tables: list[Table]) -> None:
    from rich.table import Table as Grid

    from scanomaly.bench.needs import needs_of

    needs = {one.name: needs_of(one) for one in tables}
    grid = Grid(
        *("table", "what", "rows", "data sets", "weights here", "seeds", "GPU hours a seed"),
        "offline",
        box=None,
        pad_edge=False,
    )
    for one in tables:
        own = needs[one.name]
        grid.add_row(
            one.name,
            one.title,
            str(len(one.rows)),
            str(len(own.datasets)),
            f"for {own.ready} of {own.numbers} numbers",
            str(len(one.seeds)),
            f"{one.gpu_hours:g}" if one.gpu_hours else "none",
            "yes" if own.runs_offline else "no",
        )
    console().print(grid)
    datasets = dict.fromkeys(dataset for own in needs.values() for dataset in own.datasets)
    _show_data(list(datasets))
    _show_weights(list(dict.fromkeys(name for own in needs.values() for name in own.weights)))
    typer.echo("\nHours are rough estimates for one GPU of the size of an A100, honest protocol.")
    typer.echo("One table row by row: scanomaly bench list TABLE")


def _show_data(datasets: list[str]) -> None:
    from scanomaly.bench.sources import how_to_get

    typer.echo("\ndata sets:")
    ways: dict[str, list[str]] = {}
    for dataset in datasets:
        ways.setdefault(how_to_get(dataset), []).append(dataset)
    for way, names in ways.items():
        typer.echo(f"  {', '.join(names)}: {way}")


def _show_weights(names: list[str]) -> None:
    from scanomaly.backbones.weights import find, licence_of

    typer.echo("\nweights (`scanomaly weights fetch NAME --to DIR`):")
    for name in names:
        here = "here" if find(name) is not None else "not here"
        typer.echo(f"  {name}: {licence_of(name)}; {here}")


def _show_table(table: Table) -> None:
    """Rows with their presets and published numbers, then what the table needs."""
    from rich.table import Table as Grid

    from scanomaly.bench.needs import needs_of

    typer.echo(f"{table.name}: {table.title}\n{table.source}\n")
    means = list(dict.fromkeys(metric for row in table.rows for metric in row.means))
    heads = [*table.columns, *(f"mean {metric}" for metric in means)]
    grid = Grid("row", "presets and options", *heads, box=None, pad_edge=False)
    for row in table.rows:
        used = dict.fromkeys(
            " ".join((c.preset or "published only", *c.options)) for c in row.cells.values()
        )
        numbers = [_published(row.cells.get(name)) for name in table.columns]
        numbers += [f"{row.means[metric]:g}" if metric in row.means else "" for metric in means]
        grid.add_row(row.label, "; ".join(used), *numbers)
    console().print(grid)
    for note in table.notes:
        typer.echo(f"note: {note}")
    own = needs_of(table)
    _show_data(list(own.datasets))
    _show_weights(list(own.weights))
    seeds = ", ".join(map(str, table.seeds))
    hours = f"{table.gpu_hours:g} GPU hours a seed" if table.gpu_hours else "no GPU"
    typer.echo(f"\nseeds {seeds}; {hours}; weights here for {own.ready} of {own.numbers} numbers")


def _published(cell: Cell | None) -> str:
    """The paper's number with its deviation over runs; empty where it prints none."""
    if cell is None or cell.published is None:
        return ""
    spread = "" if cell.published_std is None else f" ± {cell.published_std:g}"
    return f"{cell.published:g}{spread}"


@bench_app.command("report")
def bench_report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A bench folder.")],
    names: Annotated[
        list[str] | None, typer.Option("--table", help="Only this table; may be repeated.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("--compare", help="ROW,ROW: their paired difference; may be repeated."),
    ] = None,
) -> None:
    """The paper's numbers beside ours, honest beside published, as HTML, Markdown and CSV."""
    from scanomaly.bench.findings import findings
    from scanomaly.bench.jobs import planned_tables
    from scanomaly.bench.tables import table
    from scanomaly.report.bench import write_bench_report

    chosen = names or planned_tables(out)
    if not chosen:
        raise ConfigError(
            f"{out}: expected a bench folder with plans, found none; `scanomaly bench run TABLE "
            f"--out {out}` makes one."
        )
    if pairs and len(chosen) > 1:
        raise ConfigError(f"--compare needs one table: give --table, one of {', '.join(chosen)}.")
    for name in chosen:
        known = table(name)
        compared = [_pair(words, [row.label for row in known.rows]) for words in pairs or ()]
        found = findings(out, known, compared)
        path = write_bench_report(found, out / "report")
        typer.echo(f"{name}: {_finding_words(found)}: {path.resolve()}")


def _finding_words(found: Findings) -> str:
    lacking = sum(bool(cell.missing) for cell in found.cells)
    numbers = sum(1 for _ in found.table.experiments())
    noise = sum(line.within_noise for line in found.differences)
    words = [f"{found.finished} of {found.planned} runs finished"]
    if lacking:
        words.append(f"{lacking} of {numbers} numbers missing or not complete")
    if noise:
        words.append(f"{noise} of {len(found.differences)} differences within noise")
    return ", ".join(words)


def _pair(words: str, labels: list[str]) -> tuple[str, str]:
    """`ROW,ROW`, whose labels may have commas of their own. Raises ConfigError."""
    for first in labels:
        second = words.removeprefix(f"{first},").strip()
        if words.startswith(f"{first},") and second in labels and second != first:
            return first, second
    raise ConfigError(
        f"--compare {words!r}: expected two different rows with a comma between; there are "
        f"{'; '.join(labels)}."
    )
