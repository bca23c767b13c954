"""Accuracy against a numeric setting: what the figures of it share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdctl.report.fields import distinguishing_fields, read_field, short_names
from kdctl.report.figure import FigureData, NothingToDrawError
from kdctl.report.plotting import Look, add_legend, add_title, log_axis, looks, new_figure
from kdctl.report.replicates import Replicates
from kdctl.report.series import (
    counted_groups,
    error_of,
    field_title,
    replicate_words,
    selection_words,
    subject_words,
    summaries,
)
from kdctl.report.wording import settings_of
from kdctl.text import plural

_WIDE = 10.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic unless told otherwise."""


def draw_against(data: FigureData, field: str, *, title: str, top5: bool, log: bool | None = None) -> Figure:
    """Return accuracy over the values of `field`: one line for each combination of the other settings.

    Raises:
        NothingToDrawError: the field has fewer than two values among finished runs.
    """
    having = [run for run in data.runs if _is_number(read_field(run.plan, field))]
    fields = [other for other in distinguishing_fields([run.plan for run in data.runs]) if other != field]
    groups = [
        group for group in counted_groups(data, [field, *fields]) if _is_number(read_field(group.plan, field))
    ]
    every = _lines(groups, fields)
    lines = {name: members for name, members in every.items() if len(_values(members, field)) > 1}
    values = _values([group for members in lines.values() for group in members], field)
    if not lines:
        raise NothingToDrawError(
            f"finished runs that are otherwise alike have fewer than two values of '{field}'.",
            f"sweep it: [grid] {field} = [...].",
        )
    figure, ((*panels,),) = new_figure(1, 2 if top5 else 1, panel=(3.3, 2.7))
    style = dict(zip(lines, looks(len(lines)), strict=True))
    is_log = log if log is not None else values[0] > 0 and values[-1] / values[0] >= _WIDE
    handles: dict[str, Any] = {}
    for axes, measure in zip(panels, ("top1", "top5"), strict=False):
        for name, members in lines.items():
            handles[name] = _line(axes, data, members, field, measure, style[name])
        axes.set_ylabel(f"test {measure.replace('top', 'top-')} (%)")
        axes.set_xlabel(field_title(field))
        if is_log and values[0] > 0:
            log_axis(axes, values)
    told = "method.name" in fields and len(lines) > 1  # in the legend
    about = subject_words(data, having, but=("method.name",) if told else ())
    shown = [group for members in lines.values() for group in members]
    left_out = len(every) - len(lines)
    note = f"{plural(left_out, 'configuration')} with a single value left out" if left_out else ""
    add_title(figure, title, about, f"{replicate_words(shown)}; {selection_words(data)}", note)
    if len(lines) > 1:
        add_legend(figure, list(handles.values()), list(handles))
    return figure


def _values(groups: Sequence[Replicates], field: str) -> list[float]:
    return sorted({float(read_field(group.plan, field)) for group in groups})


def _lines(groups: Sequence[Replicates], fields: Sequence[str]) -> dict[str, list[Replicates]]:
    """Return the groups of each line by its name: what tells it from the other lines."""
    names = short_names(fields)
    found: dict[str, list[Replicates]] = {}
    for group in groups:
        name = ", ".join(settings_of(group.plan, fields, names)) or "all runs"
        found.setdefault(name, []).append(group)
    return found


def _line(
    axes: Axes, data: FigureData, members: Sequence[Replicates], field: str, measure: str, look: Look
) -> Any:
    found = [(float(read_field(group.plan, field)), summaries(group, data).get(measure)) for group in members]
    points = sorted(
        ((value, summary) for value, summary in found if summary is not None), key=lambda point: point[0]
    )
    return axes.errorbar(
        [value for value, _ in points],
        [summary.mean for _, summary in points],
        yerr=[error_of(summary) for _, summary in points],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
