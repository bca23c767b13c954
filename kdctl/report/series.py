"""Groups of replicates as the series of a figure: named, in a table's order, and not too many."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kdctl.records import RunState, StoredRun
from kdctl.report.fields import distinguishing_fields, read_field, short_names
from kdctl.report.figure import FigureData, NothingToDrawError
from kdctl.report.replicates import Replicates, Value, group_by_configuration, in_table_order, selected_epoch
from kdctl.report.statistics import Spread, Summary, spread_of, summarize
from kdctl.report.subject import SUBJECT_FIELDS, data_words, shared_words, unlike_subjects
from kdctl.report.wording import SELECTION_WORDS, counts_words, setting, settings_of, title
from kdctl.text import plural

MOST_LINES = 8
"""Series in one panel before a reader loses them."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Replicates, in the panel and under the name that a figure gives them."""

    panel: str
    """Title of its panel; empty if there is only one."""
    name: str
    """What tells it from the others of the panel."""
    group: Replicates


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The series of a figure."""

    series: tuple[Series, ...]
    note: str
    """What was left out; empty if nothing was."""

    @property
    def panels(self) -> list[str]:
        """Titles of the panels, in their order."""
        return list(dict.fromkeys(item.panel for item in self.series))

    @property
    def names(self) -> list[str]:
        """Names of the series over all panels, in their order."""
        return list(dict.fromkeys(item.name for item in self.series))


def choose_series(data: FigureData, runs: Sequence[StoredRun]) -> Chosen:
    """Divide runs into series: replicates are one; more than a panel holds are divided among panels.

    Raises:
        NothingToDrawError: there are no runs.
    """
    if not runs:
        raise NothingToDrawError("there are no runs to draw.", "train some: `kdctl train` or `kdctl sweep`.")
    fields = distinguishing_fields([run.plan for run in runs])
    groups = group_by_configuration(runs, fields, data.select)
    made: dict[str, list[Series]] = {}
    for item in divide(groups, fields, _panel_field(groups, fields)):
        made.setdefault(item.panel, []).append(item)
    kept = [best_of(series, MOST_LINES) for series in made.values()]
    left_out = sum(len(series) for series in made.values()) - sum(map(len, kept))
    note = (
        f"the best {MOST_LINES} of each panel by test accuracy; {plural(left_out, 'configuration')} left out"
        if left_out
        else ""
    )
    return Chosen(series=tuple(item for series in kept for item in series), note=note)


def divide(groups: Sequence[Replicates], fields: Sequence[str], by: str | None) -> list[Series]:
    """Give each group the panel that its value of `by` names, and a name made of its other settings.

    Args:
        groups: whose values are those of `fields`.
        fields: that tell them apart.
        by: the field of the panels; None: all are in one.
    """
    names = short_names(fields)
    series: list[Series] = []
    for group in groups:
        panel = setting(read_field(group.plan, by), by, short_names([by])[by]) if by else ""
        others = [field for field in fields if field != by]
        name = (", ".join(settings_of(group.plan, others, names)) or "all runs") if others else ""
        series.append(Series(panel=panel, name=name, group=group))
    return series


def best_of(series: Sequence[Series], most: int) -> list[Series]:
    """Return at most so many series, the best by test accuracy, in the order in which they were."""
    if len(series) <= most:
        return list(series)

    def accuracy(item: Series) -> float:
        return item.group.summary.mean if item.group.summary else -math.inf

    best = sorted(series, key=accuracy, reverse=True)[:most]
    return [item for item in series if item in best]


def subject_words(
    data: FigureData, runs: Sequence[StoredRun] | None = None, *, but: Sequence[str] = ()
) -> str:
    """Name what all runs share: data and how much of them, teacher and student, protocol and length.

    Args:
        data: what the figure is drawn from.
        runs: those that are shown; all if not given.
        but: fields that are told elsewhere.
    """
    plans = [run.plan for run in (data.runs if runs is None else runs)]
    unlike = unlike_subjects(plans)
    used = [field for field in SUBJECT_FIELDS if field not in unlike]
    shared = shared_words(plans, but=but)
    data_used = data_words(plans[0], used, {} if "data.name" in unlike else data.totals)
    words = (data_used, shared.pair, shared.method, shared.protocol, shared.length)
    return ", ".join(filter(None, words))


def replicate_words(groups: Sequence[Replicates]) -> str:
    """Say over how many runs means of the selected epoch go: 'mean ± sample std over seeds, n = 3 to 5'."""
    return _counts_worded({len(group.counted) for group in groups}, "mean ± sample std")


def curve_words(groups: Sequence[Replicates], *, what: str) -> str:
    """Say over how many runs the means of curves go (see `averaged_runs`), and which are not finished."""
    averaged = [averaged_runs(group) for group in groups]
    left_out = sum(len(group.runs) - len(runs) for group, runs in zip(groups, averaged, strict=True))
    unfinished = sum(runs[0].state is not RunState.FINISHED for runs in averaged)
    words = [
        _counts_worded({len(runs) for runs in averaged}, what),
        f"{plural(left_out, 'run')} that did not finish left out" if left_out else "",
        f"no run of {plural(unfinished, 'configuration')} has finished" if unfinished else "",
    ]
    return "; ".join(filter(None, words))


def _counts_worded(counts: set[int], what: str) -> str:
    return "single runs (n = 1)" if counts == {1} else f"{what} over seeds, {counts_words(counts)}"


def selection_words(data: FigureData) -> str:
    """Name the epoch that counts."""
    return SELECTION_WORDS[data.select]


def averaged_runs(group: Replicates) -> Sequence[StoredRun]:
    """Return the runs that a curve averages: those that finished, or all while none has.

    A run that diverged is no replicate of those that did not: tables leave it out as well.
    """
    return [run for run in group.runs if run.state is RunState.FINISHED] or group.runs


def summaries(group: Replicates, data: FigureData) -> dict[str, Summary]:
    """Return n, mean and std of the test's 'top1', 'top5' and 'loss' over a group's counted runs."""
    return {
        name: summarize(finite)
        for name, values in measured(group, data).items()
        if (finite := _finite(values))
    }


def measured(group: Replicates, data: FigureData) -> dict[str, list[float]]:
    """Return the test's 'top1', 'top5' and 'loss' of each of a group's counted runs."""
    epochs = [epoch for run in group.counted if (epoch := selected_epoch(run, data.select)) is not None]
    return {
        "top1": [epoch.test.top1 for epoch in epochs],
        "top5": [epoch.test.top5 for epoch in epochs],
        "loss": [epoch.test.loss for epoch in epochs],
    }


def error_of(summary: Summary) -> float:
    """Return the half length of an error bar: the sample standard deviation, 0 for a single run."""
    return spread_of(summary, Spread.SAMPLE) or 0.0


def counted_groups(data: FigureData, fields: Sequence[str] | None = None) -> list[Replicates]:
    """Return the groups of replicates that have a number to show.

    Raises:
        NothingToDrawError: none has.
    """
    chosen = distinguishing_fields([run.plan for run in data.runs]) if fields is None else fields
    groups = [group for group in group_by_configuration(data.runs, chosen, data.select) if group.counted]
    if not groups:
        raise NothingToDrawError(
            f"no finished run has a '{data.select}' epoch.", "finish a sweep first: kdctl sweep RECIPE"
        )
    return groups


def numeric_fields(runs: Sequence[StoredRun]) -> list[str]:
    """Return the settings that tell runs apart and are numbers in all that have them, in the plan's order."""
    found: list[str] = []
    for field in distinguishing_fields([run.plan for run in runs]):
        values = [value for run in runs if (value := read_field(run.plan, field)) is not None]
        if len({type(value) for value in values} - {int, float}) == 0 and len(set(values)) > 1:
            found.append(field)
    return found


def field_title(field: str) -> str:
    """Word a field for an axis: 'learning rate'."""
    return title(short_names([field])[field])


def _panel_field(groups: Sequence[Replicates], fields: Sequence[str]) -> str | None:
    """Return the field of the panels, if one is not enough: of few values, and leaving out the fewest."""
    if len(groups) <= MOST_LINES or len(fields) < 2:
        return None
    counts = {field: len({group.values[place] for group in groups}) for place, field in enumerate(fields)}
    few = [field for field, count in counts.items() if 1 < count <= MOST_LINES]
    return min(few, key=lambda field: _too_many(groups, fields.index(field)), default=None)


def _too_many(groups: Sequence[Replicates], place: int) -> int:
    """Return how many groups a panel for each value of a field would leave out."""
    return sum(
        max(0, count - MOST_LINES) for count in Counter(group.values[place] for group in groups).values()
    )


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def ordered(values: Sequence[Value]) -> list[Value]:
    """Return the distinct values in a table's order: numbers by size, 'ce' first, all else as it appeared."""
    return [row[0] for row in in_table_order([(value,) for value in dict.fromkeys(values)])]
