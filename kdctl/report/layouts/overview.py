"""The best setting of each pair and method, beside the baseline and published numbers."""

from __future__ import annotations

from kdctl.report.fields import read_field
from kdctl.report.layout_kind import BEST_FIELDS, LayoutKind, Names, Plans, layouts


@layouts.register("overview")
class OverviewLayout(LayoutKind):
    """The best setting of each pair and method."""

    best_by = "val"
    beside = "results"

    def usual_fields(
        self, plans: Plans, rows: Names, columns: Names, *, choosing: bool
    ) -> tuple[Names, Names]:
        """Return pair, method, projector and loss, where runs have them."""
        return rows or tuple(field for field in BEST_FIELDS if _is_known(field, plans)), columns


def _is_known(field: str, plans: Plans) -> bool:
    return any(read_field(plan, field) is not None for plan in plans.trees)
