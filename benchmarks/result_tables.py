"""Rows and cells of the tables that benchmarks print."""

from collections.abc import Sequence


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def head(columns: Sequence[str]) -> list[str]:
    """The two first lines of a table."""
    return [line(columns), "|" + "---|" * len(columns)]


def interval(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """`0.812 [0.760, 0.861]`; `-` where there is no value."""
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
