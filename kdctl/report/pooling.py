"""Means over several configurations: what they average over, in words."""

from __future__ import annotations

from kdctl.report.fields import read_field, short_names, show_value, varying_fields
from kdctl.report.replicates import Replicates

_MAX_VALUES = 6


def pooled_over(group: Replicates) -> str:
    """Return the settings that differ within a group: 'learning rate (0.05, 0.1)'; empty if none does."""
    if not group.is_pooled:
        return ""
    plans = [run.plan for run in group.runs]
    fields = varying_fields(plans)
    names = short_names(fields)
    described: list[str] = []
    for field in fields:
        values = list(dict.fromkeys(show_value(read_field(plan, field)) for plan in plans))
        listed = ", ".join(values[:_MAX_VALUES])
        more = f", and {len(values) - _MAX_VALUES} more" if len(values) > _MAX_VALUES else ""
        described.append(f"{names[field].replace('_', ' ')} ({listed}{more})")
    return ", ".join(described) or "the teacher's run"
