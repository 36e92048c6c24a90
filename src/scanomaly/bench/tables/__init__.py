"""The papers' tables, and our own, as data: which experiments make them. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scanomaly.bench.tables.iqe_clip import IQE_TABLES
from scanomaly.bench.tables.kq_former import KQF_TABLES
from scanomaly.bench.tables.mvfa import MVFA_TABLES
from scanomaly.bench.tables.offline import OFFLINE_TABLES
from scanomaly.bench.tables.qfae import QFAE_TABLES
from scanomaly.bench.tables.table import Cell, Table, TableRow
from scanomaly.errors import ConfigError

__all__ = ["TABLES", "Cell", "Table", "TableRow", "table"]

TABLES: Mapping[str, Callable[[], Table]] = {
    **QFAE_TABLES,
    **MVFA_TABLES,
    **IQE_TABLES,
    **KQF_TABLES,
    **OFFLINE_TABLES,
}
"""Every table of `scanomaly bench run`."""


def table(name: str) -> Table:
    """The table of a name. Raises ConfigError listing the names there are."""
    if name not in TABLES:
        raise ConfigError(f"no table {name!r}; there are {', '.join(TABLES)}.")
    return TABLES[name]()
