"""Candles as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._columns_py import (
        CandleColumns,
        Column,
        aggregated,
        columns_from_batches,
        columns_from_rows,
        insert_documents,
        is_complete,
        missing_steps,
        part,
        rows,
    )
else:
    from ._choose import choose

    _module = choose("columns")
    CandleColumns = _module.CandleColumns
    Column = _module.Column
    aggregated = _module.aggregated
    columns_from_batches = _module.columns_from_batches
    columns_from_rows = _module.columns_from_rows
    insert_documents = _module.insert_documents
    is_complete = _module.is_complete
    missing_steps = _module.missing_steps
    part = _module.part
    rows = _module.rows

__all__ = [
    "CandleColumns",
    "Column",
    "aggregated",
    "columns_from_batches",
    "columns_from_rows",
    "insert_documents",
    "is_complete",
    "missing_steps",
    "part",
    "rows",
]
