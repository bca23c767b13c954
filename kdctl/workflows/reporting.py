"""Tables of what the store holds. Never loads torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, UsageError
from kdctl.records import Selection, StoredRun, StoredSweep
from kdctl.report.build import TableOptions, build_report, selection_of
from kdctl.report.published_numbers import packaged_numbers, read_numbers
from kdctl.report.reported import Reported
from kdctl.report.table_format import Table
from kdctl.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

PACKAGED = "published"
"""Asks for the published numbers that come with kdctl."""


def report(
    workspace: Workspace,
    *,
    sweep: str | Sequence[str] | None = None,
    everything: bool = False,
    against: str | Path | Sequence[str | Path] = (),
    **options: Unpack[TableOptions],
) -> Table:
    """Return the mean ± std table of sweeps, of the newest one, or of all runs.

    Args:
        workspace: whose store is read.
        sweep: names of sweeps, whose runs stand in one table.
        everything: all runs of the store, also those of no sweep.
        against: 'published', or files of numbers of the reader's own, to stand beside the rows they fit.
        **options: how the table is to look.

    Raises:
        KdctlError: there is no such sweep, or nothing is finished yet.
    """
    runs, sweeps = chosen_runs(workspace.store, sweep, everything=everything)
    if against:
        options["published"] = _published([against] if isinstance(against, (str, Path)) else against)
    options.setdefault("totals", class_totals(runs))
    options.setdefault("evaluations", workspace.store.evaluations_by_run([run.key for run in runs]))
    try:
        return build_report(runs, sweeps, **options)
    except KdctlError as error:
        others = _others_with_numbers(workspace.store, sweeps) if sweep is None and sweeps else []
        if not others or error.exit_code != KdctlError.exit_code:
            raise
        names = ", ".join(f"`kdctl report --sweep {shlex.quote(name)}`" for name in others)
        raise KdctlError(
            f"the newest sweep, '{sweeps[0].name}': {error.problem}",
            f"{error.hint} Others have a table: {names}.",
        ) from error


def frame(
    workspace: Workspace,
    *,
    sweep: str | Sequence[str] | None = None,
    everything: bool = False,
    select: Selection | str | None = None,
) -> pd.DataFrame:
    """Return a tidy frame of sweeps, of the newest one, or of all runs: one row for each run.

    Args:
        workspace: whose store is read.
        sweep: names of sweeps.
        everything: all runs of the store, also those of no sweep.
        select: which epoch's numbers count; if not given, as in the sweep's table: its recipe says, else the
            last.

    Raises:
        KdctlError: there is no such sweep or rule, or nothing was run yet.
    """
    from kdctl.report.frame import run_frame  # noqa: PLC0415 - a report needs no pandas

    runs, sweeps = chosen_runs(workspace.store, sweep, everything=everything)
    return run_frame(runs, selection_of(select, sweeps))


def epochs_frame(
    workspace: Workspace, *, sweep: str | Sequence[str] | None = None, everything: bool = False
) -> pd.DataFrame:
    """Return a tidy frame of the curves: one row for each epoch of each run.

    Raises:
        KdctlError: there is no such sweep, or nothing was run yet.
    """
    from kdctl.report.frame import epoch_frame  # noqa: PLC0415 - a report needs no pandas

    runs, _ = chosen_runs(workspace.store, sweep, everything=everything)
    return epoch_frame(runs, {run.key: workspace.store.epochs(run.key) for run in runs})


def chosen_runs(
    store: Store, names: str | Sequence[str] | None, *, everything: bool
) -> tuple[list[StoredRun], list[StoredSweep]]:
    """Return the runs of sweeps; without names of the newest, without any sweep all runs there are.

    Raises:
        UsageError: names are given, and everything is asked for.
        KdctlError: there is no such sweep, or no run at all.
    """
    wanted = [names] if isinstance(names, str) else list(names or ())
    if wanted and everything:
        raise UsageError("a sweep is named, and all runs are asked for.", "say either --sweep or --all.")
    sweeps = [store.sweep(name) for name in wanted]
    if not wanted and not everything:
        sweeps = store.sweeps()[:1]
    if sweeps:
        found = {run.key: run for sweep in sweeps for run in store.runs(sweep=sweep.name)}
        return list(found.values()), sweeps
    runs = store.runs()
    if not runs:
        raise KdctlError(
            "the store holds no runs yet.",
            "run: kdctl sweep quickstart; or read run folders that are there: kdctl sync",
        )
    return runs, []


def _others_with_numbers(store: Store, sweeps: Sequence[StoredSweep]) -> list[str]:
    """Return the names of a few sweeps, apart from these, in which a run has finished; the newest first."""
    names = store.sweeps_with_results()
    return [name for name in names if name not in {sweep.name for sweep in sweeps}][:5]


def _published(against: Sequence[str | Path]) -> list[Reported]:
    return [
        number
        for source in against
        for number in (packaged_numbers() if str(source) == PACKAGED else read_numbers(Path(source)))
    ]


def class_totals(runs: Sequence[StoredRun]) -> dict[str, int]:
    """Return how many classes data sets have of which only some were used, as far as it is known."""
    some: list[Mapping[str, Any]] = [run.plan.get("data", {}) for run in runs]
    names = {str(data.get("name")) for data in some if data.get("num_classes") is not None}
    if not names:
        return {}
    from kdctl.protocols.dataset import datasets  # noqa: PLC0415 - reading images is not free to import

    entries = {name: datasets.find(name) for name in names}
    forms = {name: entry.item.published_form for name, entry in entries.items() if entry}
    return {name: form.num_classes for name, form in forms.items() if form}
