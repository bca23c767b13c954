"""What a table is, and what a table format must offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kdctl.registry import Registry

Number = float | int | bool | str | None
"""A raw value of a cell, as CSV and JSON write it."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column as readers see it; raw formats write each of its parts as a column."""

    title: str
    parts: tuple[str, ...]
    """Names of the raw values in each cell: ('top1_mean', 'top1_std')."""
    align: Literal["left", "right", "plus-minus"] = "right"
    """'plus-minus': the ± signs stand below each other."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell."""

    text: str
    """What readers see."""
    values: tuple[Number, ...]
    """What programs get: one value for each part of the column."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, ready for any format."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Number]]:
        """Return each row as its raw values by part."""
        return [
            {
                part: value
                for column, cell in zip(self.columns, row, strict=True)
                for part, value in zip(column.parts, cell.values, strict=True)
            }
            for row in self.rows
        ]


report_formats: Registry[Callable[[Table], str]] = Registry("table format", "kdctl.report.formats")
"""Functions that write a table as text, ending in a newline."""
