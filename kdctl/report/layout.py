"""What a table should show."""

from __future__ import annotations

from dataclasses import dataclass

from kdctl.errors import UsageError, suggestion
from kdctl.records import Selection
from kdctl.report.fields import short_names
from kdctl.report.replicates import Replicates
from kdctl.report.statistics import Spread
from kdctl.report.wording import label

OWN_PARTS = frozenset(
    {
        *("n", "num_planned", "num_dropped", "num_diverged", "num_failed"),
        *("difference", "p", "verdict", "parameters", "teacher_top1"),
    }
)
"""Names of raw columns that a field may not take."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which fields make rows and columns, which epoch counts, and what stands behind the ±."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    """Empty: one row for each group, with all its numbers; else the fields spread over columns."""
    select: Selection
    spread: Spread
    sweep: str = ""
    """Name of the sweep whose runs they are; empty for all runs of the store."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of rows, then of columns."""
        return (*self.rows, *self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Short names of the fields."""
        short = short_names(self.fields, taken=OWN_PARTS)
        return tuple(short[field] for field in self.fields)

    def label(self, group: Replicates) -> str:
        """Name a group by the fields that the table shows."""
        return label(group.values, self.fields, self.names)


def read_selection(name: str) -> Selection:
    """Return the selection rule called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in list(Selection):
        raise UsageError(f"there is no selection rule '{name}'.", suggestion(name, Selection, "Rules"))
    return Selection(name)


def read_spread(name: str) -> Spread:
    """Return the spread called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in list(Spread):
        raise UsageError(f"there is no spread '{name}'.", suggestion(name, Spread, "Spreads"))
    return Spread(name)
