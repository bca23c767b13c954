"""A row for each configuration, with all that is known of it."""

from __future__ import annotations

from kdctl.report.layout_kind import BEST_FIELDS, LayoutKind, Names, Plans, layouts


@layouts.register("list")
class ListLayout(LayoutKind):
    """A row for each configuration."""

    pools = True

    def usual_fields(
        self, plans: Plans, rows: Names, columns: Names, *, choosing: bool
    ) -> tuple[Names, Names]:
        """Return what was asked for, else all that tells the configurations apart."""
        if rows or columns:
            return rows, columns
        if choosing:
            return tuple(field for field in BEST_FIELDS if field in plans.apart) or ("method.name",), ()
        subject = [field for field in plans.unlike if field not in plans.apart]
        return (*subject, *plans.apart) or ("method.name",), ()
