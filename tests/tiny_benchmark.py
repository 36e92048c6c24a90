"""A small table of a tiny QFAE of the published layout.

`python tiny_benchmark.py RUN_YAML WORDS...` is the command line that knows it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from scanomaly.bench.tables import TABLES, Cell, Table, TableRow
from scanomaly.config.run import Run
from scanomaly.presets import PRESETS

NAME, PRESET, ROW, RIVAL = "small", "tiny", "tiny QFAE", "a rival"
PUBLISHED = 91.5
STYLES = {"oct": "Retinal_OCT", "tissue": "Stained_Tissue"}
"""What `scanomaly phantom` calls it -> its data set."""
Put = Callable[[MutableMapping[str, Any], str, object], object]


def small_table() -> Table:
    def cells(preset: str | None) -> dict[str, Cell]:
        return {name: Cell(preset, name, "image.auroc", PUBLISHED) for name in STYLES.values()}

    rows = (TableRow(ROW, cells(PRESET)), TableRow(RIVAL, cells(None)))
    return Table(NAME, "A small table", "tests", tuple(STYLES.values()), rows, (1, 2), 0.1)


def offer(run_yaml: Path, put: Put) -> None:
    """put: sets an entry, as pytest's monkeypatch.setitem."""
    put(PRESETS, PRESET, lambda: Run.load(run_yaml))
    put(TABLES, NAME, small_table)


if __name__ == "__main__":
    from scanomaly.cli import main

    offer(Path(sys.argv.pop(1)), dict.__setitem__)
    main()
