"""What a kind of layout is, and what it must offer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from kdctl.records import StoredRun
from kdctl.registry import Registry
from kdctl.report.best import choose_settings, with_marks
from kdctl.report.fields import distinguishing_fields, read_field
from kdctl.report.layout import BestBy, Layout
from kdctl.report.notes import choice_notes, mark_notes
from kdctl.report.replicates import Replicates, group_by_configuration, group_by_fields
from kdctl.report.reported import Reported
from kdctl.report.subject import unlike_subjects
from kdctl.report.table import configuration_table, pivot_table
from kdctl.report.table_format import Table

PAIR_FIELDS = ("teachers", "student.name")
BEST_FIELDS = (*PAIR_FIELDS, "method.name", "method.projector.name", "method.loss")
"""What a row is about where only its best setting is shown; of all else that setting is chosen."""

Names = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plans:
    """The plans of the runs that are shown, and in what they differ; found once, for there may be many."""

    trees: Sequence[Mapping[str, Any]]

    @functools.cached_property
    def apart(self) -> Names:
        """Fields that tell the configurations apart."""
        return tuple(distinguishing_fields(self.trees))

    @functools.cached_property
    def unlike(self) -> Names:
        """Fields that say what the runs are about, as data and length, and in which they differ."""
        return tuple(unlike_subjects(self.trees))


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of a table."""

    rows: Names
    columns: Names = ()
    chosen: frozenset[str] = frozenset()
    """Those of `rows` that are told of the setting that was chosen, and make no row."""


class LayoutKind:
    """Which fields span rows and columns, and how runs are laid out between them.

    This one groups runs by these fields and shows the mean of each group: in a row of its own, with all that
    is known of it, or in a cell where fields are spread over columns. Kinds derive from it and say what is
    theirs.
    """

    best_by: ClassVar[BestBy | None] = None
    """The split on which the best setting of each row or cell is chosen, unless another is asked for."""
    beside: ClassVar[Literal["facts", "results"]] = "facts"
    """What stands beside the accuracy of a row: sizes and times too, or comparisons only."""
    has_room_beside: ClassVar[bool] = True
    """Whether published numbers, intervals and comparisons may stand beside the accuracy of a row."""
    shows_single_runs: ClassVar[bool] = False
    """Whether a row is a run, ended or not; then there are no means to mark or choose."""
    pools: ClassVar[bool] = False
    """Whether a row pools all runs that agree in the rows which were asked for."""

    def usual_fields(
        self, plans: Plans, rows: Names, columns: Names, *, choosing: bool
    ) -> tuple[Names, Names]:
        """Return the fields of rows and of columns: those that were asked for, else those of this kind.

        Args:
            plans: of the runs that are shown.
            rows: fields that were asked for; empty for none.
            columns: fields that were asked for; empty for none.
            choosing: whether one setting is chosen for each row or cell.
        """
        return rows, columns

    def fields(self, plans: Plans, rows: Names, columns: Names, *, choosing: bool) -> Fields:
        """Return the fields of a table's rows and columns; arguments as for `usual_fields`.

        What is in neither and is not chosen among tells rows apart, so that no cell pools what nobody asked
        to pool; rows about different data, protocols or lengths of training are told apart in any case.
        """
        asked_rows = bool(rows)
        rows, columns = self.usual_fields(plans, rows, columns, choosing=choosing)
        subject = tuple(field for field in plans.unlike if field not in (*rows, *columns))
        rest = tuple(field for field in plans.apart if field not in (*rows, *columns, *subject))
        if choosing:
            chosen = () if columns else rest
            return Fields(rows=(*subject, *rows, *chosen), columns=columns, chosen=frozenset(chosen))
        if self.pools and asked_rows:
            rest = ()
        return Fields(rows=(*subject, *rows, *rest), columns=columns)

    def table(self, runs: Sequence[StoredRun], layout: Layout, reported: Sequence[Reported]) -> Table:
        """Return the table of runs.

        Args:
            runs: without those that only taught others.
            layout: which values are shown, over the fields that `fields` returned.
            reported: published numbers that may stand beside them.
        """
        pools = self.pools and layout.best_by is None and layout.pools
        group = group_by_fields if pools else group_by_configuration
        groups: list[Replicates] = group(runs, layout.fields, layout.select)
        notes: tuple[str, ...] = ()
        if layout.best_by is not None:
            cells = [field for field in layout.fields if field not in layout.chosen]
            choice = choose_settings(groups, cells, layout.best_by, layout.select)
            groups, notes = list(choice.groups), tuple(choice_notes(choice, layout))
        if layout.mark_best and layout.shows_accuracy:
            groups = with_marks(groups)
        table = self.table_of_means(groups, layout, reported)
        return dataclasses.replace(table, notes=(*table.notes, *notes, *mark_notes(groups)))

    def table_of_means(
        self, groups: Sequence[Replicates], layout: Layout, reported: Sequence[Reported]
    ) -> Table:
        """Return the table of groups of replicates; arguments as for `table`."""
        if layout.columns:
            return pivot_table(groups, layout)
        return configuration_table(groups, layout, reported)


layouts: Registry[type[LayoutKind]] = Registry("layout", "kdctl.report.layouts", base=LayoutKind)
"""Kinds of tables, by the name that `--layout` takes."""

USUAL_LAYOUT = "list"


def has_choices(field: str, plans: Plans) -> bool:
    """Whether two plans differ in a field that both have."""
    return len({read_field(plan, field) for plan in plans.trees} - {None}) > 1
