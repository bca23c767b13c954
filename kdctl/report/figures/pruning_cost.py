"""What a projector costs in pruning ratio."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from kdctl.records import StoredRun, pruning_percent
from kdctl.registry import NoOptions
from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.plotting import COLOURS, add_title, new_figure
from kdctl.report.series import subject_words
from kdctl.text import plural

_MOST_BINS = 20


@figures.register("pruning_cost", label="Cost in pruning ratio")
def draw_pruning_cost(data: FigureData, options: NoOptions) -> Figure:
    """Histogram of the cost in pruning ratio: that of the student alone minus that of what is shipped.

    Figure 7 of Chen et al., CVPR 2022, arXiv:2203.14001. One count a configuration with a projector.
    """
    del options
    costs = [cost for run in _one_of_each(data) if (cost := _cost(run)) is not None]
    if not costs:
        raise NothingToDrawError(
            "no finished run ships more than its student, so no projector costs anything.",
            "train with a method that does: --method simkd.",
        )
    figure, ((axes,),) = new_figure(panel=(4.2, 2.6))
    width = _bin_width(max(map(abs, costs)))
    first, last = (math.floor(most(costs) / width) for most in (min, max))
    edges = [place * width for place in range(min(first, 0), max(last, 0) + 2)]
    counts, _, _ = axes.hist(costs, bins=edges, color=COLOURS[0], edgecolor="white")
    axes.set_xlabel("cost in pruning ratio (percentage points)")
    axes.set_ylabel("configurations")
    axes.set_yticks(_whole(max(float(count) for count in counts)))  # type: ignore[union-attr]
    axes.grid(visible=False, axis="x")
    add_title(
        figure,
        "What shipping a projector costs in pruning ratio",
        subject_words(data),
        f"student alone minus shipped; n = {plural(len(costs), 'configuration')}",
    )
    return figure


def _one_of_each(data: FigureData) -> list[StoredRun]:
    """Return a finished run of each configuration: seeds change no size."""
    found: dict[str, StoredRun] = {}
    for run in data.runs:
        if run.result is not None:
            found.setdefault(run.configuration, run)
    return list(found.values())


def _cost(run: StoredRun) -> float | None:
    """Return the cost in percentage points; None without a teacher or without a shipped projector."""
    facts = run.result.facts if run.result else None
    if facts is None or facts.pruning_percent is None or facts.shipped_parameters == facts.student_parameters:
        return None
    alone = pruning_percent(facts.student_parameters, facts.teacher_parameters)
    return None if alone is None else alone - facts.pruning_percent


def _bin_width(largest: float) -> float:
    """Return a round width that gives at most `_MOST_BINS` bins."""
    steps = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
    return next((step for step in steps if largest / step <= _MOST_BINS), steps[-1])


def _whole(largest: float) -> list[int]:
    """Return ticks at whole numbers of configurations, five or so."""
    step = max(1, math.ceil(largest / 5))
    return list(range(0, math.ceil(largest) + step, step))
