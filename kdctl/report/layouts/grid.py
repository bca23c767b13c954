"""Learning rates as rows, losses or projectors as columns, as studies of learning rates print them."""

from __future__ import annotations

from kdctl.report.layout_kind import LayoutKind, Names, Plans, has_choices, layouts

_RATE = "optimizer.learning_rate"
_COLUMNS = ("method.loss", "method.projector.name", "method.name")
"""What is spread over columns: the first of these that varies."""


@layouts.register("grid")
class GridLayout(LayoutKind):
    """Learning rate by loss, projector or method."""

    def usual_fields(
        self, plans: Plans, rows: Names, columns: Names, *, choosing: bool
    ) -> tuple[Names, Names]:
        """Return the learning rate, and the first of loss, projector and method that varies."""
        rows = rows or (_RATE,)
        over = tuple(field for field in _COLUMNS if has_choices(field, plans) and field not in rows)
        return rows, columns or over[:1]
