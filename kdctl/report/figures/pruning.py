"""Accuracy against the pruning ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdctl.records import pruning_percent
from kdctl.report.baseline import find_baselines
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
    """Mark the pruning ratio of each student alone, the way to which is what a projector costs, and there the
    accuracy of its baseline `ce`, if it was trained."""


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
    points = {id(item.group): point for item, point in zip(everything, _points(everything), strict=True)}
    shown = _named(pruned, by)
    figure, ((axes,),) = new_figure(panel=(4.6, 3.0))
    handles: dict[str, Any] = {}
    drawn = list(pruned)
    for item in shown:
        look = points[id(item.group)]
        handles[_label(item)] = _draw(axes, item.group, ratios[id(item.group)], data, look)
    if options.students:
        for place, (name, alone) in enumerate(_alone(shown).items()):
            handles[name] = axes.axvline(alone, color=_GREY, linestyle=_DASHES[place % 3], linewidth=1)
        for baseline, alone in _baselines(groups, pruned):
            look = _Point(colour=_GREY, marker="x", face=_GREY)
            handles["student trained alone"] = _draw(axes, baseline, alone, data, look)
            drawn.append(baseline)
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel("pruning ratio: 1 − shipped / teacher parameters (%)")
    axes.set_ylabel("test top-1 (%)")
    add_title(
        figure,
        "Test accuracy against the pruning ratio",
        subject_words(data, [run for group in pruned for run in group.runs]),
        f"{replicate_words(drawn)}; {selection_words(data)}",
    )
    add_legend(figure, list(handles.values()), list(handles))
    return figure


_GREY = "#777777"
"""What is there to compare with."""
_DASHES = ("--", ":", "-.")


def _named(pruned: Sequence[Replicates], by: str | None) -> list[Series]:
    """Name each configuration by what tells it from the others that are pruned."""
    fields = distinguishing_fields([run.plan for group in pruned for run in group.runs])
    return divide(pruned, fields, by)


def _label(item: Series) -> str:
    return ", ".join(filter(None, (item.panel, item.name))) or read_field(item.group.plan, "method.name")


def _draw(axes: Axes, group: Replicates, percent: float, data: FigureData, look: _Point) -> Any:
    summary = summaries(group, data)["top1"]
    return axes.errorbar(
        [percent],
        [summary.mean],
        yerr=[error_of(summary)],
        color=look.colour,
        marker=look.marker,
        markerfacecolor=look.face,
        linestyle="none",
    )


def _baselines(
    groups: Sequence[Replicates], pruned: Sequence[Replicates]
) -> Iterator[tuple[Replicates, float]]:
    """Yield what configurations are held against, at the pruning ratio of a student alone, each once."""
    chosen = {id(group) for group in pruned}
    known: set[tuple[int, float]] = set()
    for group, baseline in zip(groups, find_baselines(groups), strict=True):
        percent = _ratio_alone(group)
        if baseline is None or percent is None or id(group) not in chosen:
            continue
        if (place := (id(baseline.replicates), percent)) not in known:
            known.add(place)
            yield baseline.replicates, percent


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


def _ratio_alone(group: Replicates) -> float | None:
    """Return the pruning ratio of a group's student without what else it ships, in percent."""
    facts = group.counted[0].result.facts if group.counted[0].result else None
    return pruning_percent(facts.student_parameters, facts.teacher_parameters) if facts else None


def _alone(series: Sequence[Series]) -> dict[str, float]:
    """Return the pruning ratios of each panel's student alone, by name: one for each of its teachers."""
    found: dict[tuple[str, str], float] = {}
    for item in series:
        percent = _ratio_alone(item.group)
        if percent is not None:
            found.setdefault((item.panel, show_value(read_field(item.group.plan, "teachers"))), percent)
    ratios = {
        panel: {percent for (other, _), percent in found.items() if other == panel} for panel, _ in found
    }
    return {
        f"{panel or 'student'} alone" + (f" ({teacher})" if len(ratios[panel]) > 1 else ""): percent
        for (panel, teacher), percent in found.items()
    }
