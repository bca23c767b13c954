"""What becomes of a teacher that adapts to its student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdctl.records import RunState, Selection, StoredRun
from kdctl.registry import NoOptions
from kdctl.report.fields import distinguishing_fields
from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.plotting import COLOURS, add_legend, add_title, new_figure
from kdctl.report.replicates import group_by_configuration, selected_epoch
from kdctl.report.series import divide, error_of, replicate_words, selection_words, subject_words
from kdctl.report.statistics import Summary, summarize
from kdctl.text import plural

_TEACHER = "teacher"
"""How the names of adapted teachers begin, among the models of a run."""

_BEFORE, _AFTER, _STUDENT = "teacher before", "teacher after", "student"
_COLOURS = {_BEFORE: COLOURS[0], _AFTER: COLOURS[0], _STUDENT: COLOURS[1]}
_MARKERS = {_BEFORE: "s", _AFTER: "s", _STUDENT: "o"}


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One teacher of one configuration."""

    name: str
    accuracies: dict[str, Summary]


@figures.register("adapted_teacher", label="Accuracy of an adapted teacher, before and after")
def draw_adapted_teacher(data: FigureData, options: NoOptions) -> Figure:
    """Test accuracy of a teacher that adapts, before and after training, beside that of its student.

    For methods that train the teacher, as atsc does. Means over seeds with error bars.
    """
    del options
    told = [run for run in data.runs if _teachers(run, data.select)]
    if not told:
        raise NothingToDrawError(
            "no finished run has a teacher that adapts.", "train with a method that has one: --method atsc."
        )
    fields = distinguishing_fields([run.plan for run in told])
    groups = group_by_configuration(told, fields, data.select)
    rows = [
        _row(data, item.name, name, item.group.runs)
        for item in divide(groups, fields, None)
        for name in _teachers(item.group.runs[0], data.select)
    ]
    figure, ((axes,),) = new_figure(panel=(4.6, 0.8 + 0.42 * len(rows)))
    handles = _draw(axes, rows)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("test top-1 (%)")
    axes.set_ylabel("configuration")
    axes.grid(visible=False, axis="y")
    diverged = sum(run.state is RunState.DIVERGED for run in data.runs)
    lost = f"{plural(diverged, 'run')} that diverged left out" if diverged else ""
    about = f"{replicate_words(groups)}; {selection_words(data)}"
    add_title(figure, "A teacher that adapts, before and after", subject_words(data, told), about, lost)
    add_legend(figure, list(handles.values()), list(handles))
    return figure


def _draw(axes: Axes, rows: Sequence[_Row]) -> dict[str, Any]:
    """Draw an arrow from before to after, and the student's point, in each row."""
    handles: dict[str, Any] = {}
    for place, row in enumerate(rows):
        before, after = row.accuracies[_BEFORE].mean, row.accuracies[_AFTER].mean
        axes.annotate(
            "",
            xy=(after, place),
            xytext=(before, place),
            arrowprops={"arrowstyle": "->", "color": "#555555", "shrinkA": 5, "shrinkB": 5},
        )
        for name, summary in row.accuracies.items():
            handles[name] = axes.errorbar(
                [summary.mean],
                [place],
                xerr=[error_of(summary)],
                color=_COLOURS[name],
                marker=_MARKERS[name],
                markerfacecolor="white" if name == _BEFORE else None,
                linestyle="none",
            )
    return handles


def _row(data: FigureData, name: str, teacher: str, runs: Sequence[StoredRun]) -> _Row:
    found: dict[str, list[float]] = {_BEFORE: [], _AFTER: [], _STUDENT: []}
    for run in runs:
        epoch = selected_epoch(run, data.select)
        if run.result is None or epoch is None or teacher not in epoch.models:
            continue
        found[_BEFORE].append(run.result.models_before[teacher].test.top1)
        found[_AFTER].append(epoch.models[teacher].test.top1)
        found[_STUDENT].append(epoch.test.top1)
    place = teacher.removeprefix(_TEACHER)
    words = [name, f"teacher {place}" if place else ""]
    return _Row(
        name=", ".join(word for word in words if word),
        accuracies={kind: summarize(values) for kind, values in found.items()},
    )


def _teachers(run: StoredRun, select: Selection) -> list[str]:
    """Return the names of a run's adapted teachers whose accuracy is known before and in the selected epoch.

    Versions before 0.2.0 kept none of the selected epoch.
    """
    epoch = selected_epoch(run, select)
    if run.result is None or epoch is None:
        return []
    return [name for name in run.result.models_before if name.startswith(_TEACHER) and name in epoch.models]
