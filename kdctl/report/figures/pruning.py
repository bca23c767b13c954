"""Accuracy against the pruning ratio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from kdctl.records import pruning_percent
from kdctl.report.fields import distinguishing_fields, read_field, show_value
from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.plotting import COLOURS, MARKERS, add_legend, add_title, looks, new_figure
from kdctl.report.replicates import Replicates
from kdctl.report.series import (
    Series,
    counted_groups,
    divide,
    error_of,
    replicate_words,
    selection_words,
    subject_words,
    summaries,
)


@dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """Options of the figure."""

    students: bool = True
    """Mark the pruning ratio of each student alone: the way there is what a projector costs."""


@figures.register("pruning", config=PruningConfig, label="Accuracy against the pruning ratio")
def draw_pruning(data: FigureData, options: PruningConfig) -> Figure:
    """Test accuracy against the pruning ratio: 1 - parameters shipped / parameters of the teacher.

    Figure 6 of Chen et al., CVPR 2022, arXiv:2203.14001.
    """
    fields = distinguishing_fields([run.plan for run in data.runs])
    groups = counted_groups(data, fields)
    ratios = {id(group): percent for group in groups if (percent := ratio(group)) is not None}
    pruned = [group for group in groups if id(group) in ratios]
    if not pruned:
        raise NothingToDrawError(
            "no finished run had a teacher, so nothing was pruned.", "distil: kdctl train --teacher ..."
        )
    by = "student.name" if len({group.plan["student"]["name"] for group in pruned}) > 1 else None
    everything = divide(groups, fields, by)  # students alone, too: others look here as they do elsewhere
    points = zip(everything, _points(everything), strict=True)
    shown = [(item, look) for item, look in points if id(item.group) in ratios]
    figure, ((axes,),) = new_figure(panel=(4.6, 3.0))
    handles: dict[str, Any] = {}
    for item, look in shown:
        summary = summaries(item.group, data)["top1"]
        handles[", ".join(filter(None, (item.panel, item.name)))] = axes.errorbar(
            [ratios[id(item.group)]],
            [summary.mean],
            yerr=[error_of(summary)],
            color=look.colour,
            marker=look.marker,
            markerfacecolor=look.face,
            linestyle="none",
        )
    if options.students:
        for place, (name, alone) in enumerate(_alone([item for item, _ in shown]).items()):
            handles[name] = axes.axvline(
                alone, color="#777777", linestyle=("--", ":", "-.")[place % 3], linewidth=1
            )
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel("pruning ratio: 1 − shipped / teacher parameters (%)")
    axes.set_ylabel("test top-1 (%)")
    add_title(
        figure,
        "Test accuracy against the pruning ratio",
        subject_words(data),
        f"{replicate_words(pruned)}; {selection_words(data)}",
    )
    add_legend(figure, list(handles.values()), list(handles))
    return figure


@dataclass(frozen=True, kw_only=True)
class _Point:
    """How one configuration is drawn."""

    colour: str
    marker: str
    face: str
    """Colour of the marker's inside."""


def _points(series: Sequence[Series]) -> list[_Point]:
    """Return the look of each configuration: colours by student and markers by the rest, while these last."""
    names = list(dict.fromkeys(item.name for item in series))
    panels = list(dict.fromkeys(item.panel for item in series))
    if len(panels) == 1 or len(panels) > len(COLOURS) or len(names) > len(MARKERS):
        own = looks(len(series))
        return [_Point(colour=look.colour, marker=look.marker, face=look.colour) for look in own]
    places = [(panels.index(item.panel), names.index(item.name)) for item in series]
    return [
        _Point(colour=COLOURS[panel], marker=MARKERS[name], face="white" if panel else COLOURS[panel])
        for panel, name in places
    ]


def ratio(group: Replicates) -> float | None:
    """Return the pruning ratio of what a group ships, in percent."""
    result = group.counted[0].result
    return result.facts.pruning_percent if result else None


def _alone(series: Sequence[Series]) -> dict[str, float]:
    """Return the pruning ratios of each panel's student alone, by name: one for each of its teachers."""
    found: dict[tuple[str, str], float] = {}
    for item in series:
        facts = item.group.counted[0].result.facts if item.group.counted[0].result else None
        percent = facts and pruning_percent(facts.student_parameters, facts.teacher_parameters)
        if percent is not None:
            found.setdefault((item.panel, show_value(read_field(item.group.plan, "teachers"))), percent)
    num_teachers = Counter(panel for panel, _ in found)
    return {
        f"{panel or 'student'} alone" + (f" ({teacher})" if num_teachers[panel] > 1 else ""): percent
        for (panel, teacher), percent in found.items()
    }
