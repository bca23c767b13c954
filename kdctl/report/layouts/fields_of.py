"""Which fields span the rows and columns of each kind of table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdctl.report.fields import distinguishing_fields, read_field
from kdctl.report.subject import unlike_subjects

PAIR_FIELDS = ("teachers", "student.name")
OVERVIEW_FIELDS = (*PAIR_FIELDS, "method.name", "method.projector.name", "method.loss")
"""What a row of an overview is about; of all else the best setting is chosen."""

_RATE = "optimizer.learning_rate"
_GRID_COLUMNS = ("method.loss", "method.projector.name", "method.name")
"""What a grid spreads over columns: the first of these that varies."""

Plans = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of a table."""

    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()
    chosen: frozenset[str] = frozenset()
    """Those of `rows` that are told of the setting that was chosen, and make no row."""


def fields_of_layout(
    kind: str, plans: Plans, rows: Sequence[str], columns: Sequence[str], *, choosing: bool
) -> Fields:
    """Return the fields of a table's rows and columns: as wanted, else as its kind has them.

    What is not wanted and not chosen among is told apart, so that no cell pools what nobody asked to pool;
    rows about different data, protocols or lengths of training are told apart in any case.

    Args:
        kind: name of the layout.
        plans: of the runs that are shown.
        rows: fields that were asked for.
        columns: fields that were asked for.
        choosing: whether one setting is chosen for each cell.
    """
    asked = bool(rows or columns)
    apart = distinguishing_fields(plans)
    rows, columns = _usual_fields(kind, plans, rows, columns, apart, choosing=choosing)
    subject = [field for field in unlike_subjects(plans) if field not in (*rows, *columns)]
    if kind == "paper":
        columns, subject = (*subject, *columns), []
    rest = [field for field in apart if field not in (*rows, *columns, *subject)]
    if choosing:
        chosen = () if columns else tuple(rest)
        return Fields(rows=(*subject, *rows, *chosen), columns=tuple(columns), chosen=frozenset(chosen))
    if kind == "list" and not asked:
        found = (*[field for field in subject if field not in apart], *apart)
        return Fields(rows=found or ("method.name",))
    if kind == "list" and rows:  # cells pool what rows do not tell apart, as it was asked for
        rest = []
    return Fields(rows=(*subject, *rows, *rest), columns=tuple(columns))


def _usual_fields(
    kind: str,
    plans: Plans,
    rows: Sequence[str],
    columns: Sequence[str],
    apart: Sequence[str],
    *,
    choosing: bool,
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the fields of rows and of columns: those that were asked for, else those of the kind."""
    if kind == "paper":
        return rows or _methods(apart, choosing=choosing), columns or PAIR_FIELDS
    if kind == "grid":
        rows = rows or (_RATE,)
        over = [field for field in _GRID_COLUMNS if _has_choices(field, plans) and field not in rows]
        return rows, columns or tuple(over[:1])
    if kind == "overview":
        return rows or tuple(field for field in OVERVIEW_FIELDS if _is_known(field, plans)), columns
    if choosing and not (rows or columns):
        return tuple(field for field in OVERVIEW_FIELDS if field in apart) or ("method.name",), columns
    return rows, columns


def _methods(apart: Sequence[str], *, choosing: bool) -> tuple[str, ...]:
    """Return what tells methods apart, the pair of models apart from it."""
    about = [field for field in OVERVIEW_FIELDS if field in apart and field not in PAIR_FIELDS]
    return ("method.name", *(field for field in about if field != "method.name" and choosing))


def _has_choices(field: str, plans: Plans) -> bool:
    return len({read_field(plan, field) for plan in plans} - {None}) > 1


def _is_known(field: str, plans: Plans) -> bool:
    return any(read_field(plan, field) is not None for plan in plans)
