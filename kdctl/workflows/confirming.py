"""Running the winner of a sweep and its baseline again, on seeds that had no part in choosing it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.failure import RunsFailedError, mistakes_of
from kdctl.assembly.progress import Progress
from kdctl.assembly.readiness import require_ready
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, UsageError
from kdctl.execution.executor import ExecutorConfig
from kdctl.execution.scheduler import open_scheduler
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.records import SETTLED, RunState, Selection, StoredSweep, SweepMember
from kdctl.report.build import selection_of
from kdctl.report.confirmation import Candidate, choose_candidates, confirmation_table
from kdctl.report.table_format import Table
from kdctl.store.sweep_files import keep_sweep

FEWEST_SEEDS = 3

SUFFIX = "-confirm"
"""What a confirmation is called: the sweep's name with this behind it."""


@dataclass(frozen=True, kw_only=True)
class ConfirmPlan:
    """What a confirmation will run, before it runs it."""

    sweep: str
    select: Selection
    seeds: tuple[int, ...]
    """None of them had a part in the sweep."""
    candidates: tuple[tuple[Candidate, ...], ...]
    """For each student and data set: the winner, and what it is compared with."""
    runs: tuple[RunPlan, ...]
    states: Mapping[str, RunState]
    """Of the runs that the store knows already."""

    @property
    def name(self) -> str:
        """Under which its runs are kept as a sweep."""
        return f"{self.sweep}{SUFFIX}"

    @property
    def to_do(self) -> list[RunPlan]:
        """Runs that need training."""
        return [plan for plan in self.runs if self.states.get(plan.key) not in SETTLED]


def plan_confirmation(
    workspace: Workspace, sweep: str, *, num_seeds: int | None = None, select: Selection | str | None = None
) -> ConfirmPlan:
    """Find the winner of a sweep and its baseline, and plan them on fresh seeds.

    Args:
        workspace: where the sweep is.
        sweep: its name.
        num_seeds: how many; as many as the sweep had, if not given, but at least three.
        select: which epoch counts; as the recipe's `[report]` says, if not given.

    Raises:
        KdctlError: there is no such sweep, nothing of it has finished, or its plug-ins are missing.
    """
    store = workspace.store
    stored = store.sweep(sweep)
    if sweep.endswith(SUFFIX) and sweep.removesuffix(SUFFIX) in {item.name for item in store.sweeps()}:
        raise UsageError(
            f"'{sweep}' is a confirmation itself.",
            f"say kdctl confirm {shlex.quote(sweep.removesuffix(SUFFIX))} --seeds N.",
        )
    runs = store.runs(sweep=sweep)
    rule = selection_of(select, [stored])
    candidates = choose_candidates(runs, stored, rule)
    used = {run.seed for run in runs}
    number = num_seeds or max(len({run.seed for run in runs if run.state is RunState.FINISHED}), FEWEST_SEEDS)
    seeds = tuple(range(max(used) + 1, max(used) + 1 + number))
    catalog = full_catalog()
    first = [read_plan(item.original.plan, catalog) for pair in candidates for item in pair]
    plans = tuple(plan.with_seed(seed) for seed in seeds for plan in first)
    states = store.states([plan.key for plan in plans])
    return ConfirmPlan(
        sweep=sweep,
        select=rule,
        seeds=seeds,
        candidates=tuple(candidates),
        runs=plans,
        states={key: state for key, state in states.items() if state is not RunState.PRUNED},
    )


def confirm(
    plan: ConfirmPlan,
    workspace: Workspace,
    *,
    executor: ExecutorConfig | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    gang_size: int = DEFAULT_GANG_SIZE,
) -> Table | None:
    """Train what is missing, and return original and fresh results beside each other.

    The runs are kept as a sweep of their own. Doing so again trains nothing.

    Returns:
        None when it was stopped; the same call goes on.

    Raises:
        KdctlError: device, data or a teacher's model are missing; then nothing was started.
        RunsFailedError: what stopped the runs that failed.
    """
    store = workspace.store
    require_ready(plan.to_do, workspace)
    store.add_runs([run.planned() for run in plan.runs])
    store.revive([run.key for run in plan.runs])
    _keep(plan, workspace, store.sweep(plan.sweep))
    with open_scheduler(
        workspace, executor=executor, progress=progress, stop=stop, gang_size=gang_size, retry_failed=True
    ) as scheduler:
        scheduler.complete(plan.runs)
    runs = store.runs(keys=[run.key for run in plan.runs])
    if mistakes := mistakes_of(runs, scheduler.failures):
        raise RunsFailedError(mistakes)
    if any(run.state not in SETTLED for run in runs):
        return None
    fresh = {
        run.configuration: [other for other in runs if other.configuration == run.configuration]
        for run in runs
    }
    return confirmation_table(plan.candidates, fresh, sweep=plan.sweep, seeds=plan.seeds, select=plan.select)


def _keep(plan: ConfirmPlan, workspace: Workspace, original: StoredSweep) -> None:
    """Keep the runs as a sweep, whose reports are laid out like the original's; an earlier winner's leave."""
    store, keys = workspace.store, {run.key for run in plan.runs}
    known = {item.name: item for item in store.sweeps()}.get(plan.name)
    if known is not None and known.recipe.get("confirms") != plan.sweep:
        raise KdctlError(
            f"there is a sweep '{plan.name}' already, and it is no confirmation of '{plan.sweep}'.",
            "rename one of the two: kdctl sweep RECIPE -o name=...",
        )
    recipe = {
        "name": plan.name,
        "confirms": plan.sweep,
        "description": f"Winner and baseline of {plan.sweep} on fresh seeds",
        "seeds": list(plan.seeds),
        "report": {**original.recipe.get("report", {}), "select": plan.select.value},
        "reported": original.recipe.get("reported", []),
    }
    keep_sweep(
        *(store, workspace.runs, plan.name, recipe),
        members=[SweepMember(run_key=run.key, role="student") for run in plan.runs],
        leaving=_leaving(known, keys),
    )


def _leaving(known: StoredSweep | None, keys: set[str]) -> Sequence[str]:
    return [member.run_key for member in known.members if member.run_key not in keys] if known else ()
