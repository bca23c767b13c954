"""What a table should show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from kdctl.errors import UsageError, suggestion
from kdctl.evaluation_records import Evaluation
from kdctl.records import Selection
from kdctl.report.fields import short_names
from kdctl.report.measures import TOP1, Measure
from kdctl.report.replicates import Replicates
from kdctl.report.statistics import Spread
from kdctl.report.wording import label

OWN_PARTS = frozenset(
    {
        *("n", "num_planned", "num_dropped", "num_diverged", "num_failed", "num_missing", "pooled_over"),
        *("difference", "p", "verdict", "parameters", "teacher_top1", "pruning_percent", "flops", "seconds"),
    }
)
"""Names of raw columns that a field may not take."""

BestBy = Literal["val", "test"]
"""The split on which the best setting of a cell is chosen."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which fields make rows and columns, which epoch counts, and what stands behind the ±."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    """Empty: one row for each group, with all its numbers; else the fields spread over columns."""
    select: Selection
    spread: Spread
    values: tuple[Measure, ...] = ()
    """What the cells tell; none: the accuracy, and beside it what a row may be compared with."""
    best_by: BestBy | None = None
    """The split on which one configuration was chosen for each row or cell; None: all are shown."""
    chosen: frozenset[str] = frozenset()
    """Those of `rows` that were chosen by `best_by`, and tell no rows apart."""
    pools: bool = False
    """Whether rows or columns were asked for: then all runs that agree in these share a cell."""
    beside: Literal["facts", "results", "published"] = "facts"
    """What stands beside the accuracy: sizes and times too; comparisons only; or published numbers only."""
    mark_best: bool = False
    """Whether the best and the second are marked where a test tells them from the others."""
    intervals: bool = False
    """Whether half the 95 % confidence interval stands behind each difference."""
    versus_best: bool = False
    """Whether each row is also compared with the best one of its task."""
    sweep: str = ""
    """Name of the sweep whose runs they are; empty for runs of several or of none."""
    totals: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of classes of data sets, where it is known."""
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict[str, Evaluation])
    """What `kdctl eval` found on the test set, of the epoch that counts, by run key."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of rows, then of columns."""
        return (*self.rows, *self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Short names of the fields."""
        short = short_names(self.fields, taken=OWN_PARTS)
        return tuple(short[field] for field in self.fields)

    @property
    def shows_accuracy(self) -> bool:
        """Whether the table tells the test accuracy, as it does unless other values are asked for."""
        return not self.values or TOP1 in self.values

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


def read_best_by(name: str | None) -> BestBy | None:
    """Return the split called `name`, on which the best setting is chosen.

    Raises:
        UsageError: it is neither 'val' nor 'test'.
    """
    if name is None:
        return None
    if name in get_args(BestBy):
        return cast(BestBy, name)
    raise UsageError(f"nothing is chosen by '{name}'.", suggestion(name, ("val", "test"), "Splits"))
