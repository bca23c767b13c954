"""Sweep a recipe: every configuration of its grid or search, with every seed, each exactly once."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from kdctl.assembly.failure import mistakes_of
from kdctl.assembly.planning import Planner
from kdctl.assembly.progress import Progress, Silent
from kdctl.assembly.readiness import require_ready
from kdctl.assembly.workspace import DATABASE, Workspace
from kdctl.errors import Mistake
from kdctl.execution.executor import ExecutorConfig
from kdctl.execution.scheduler import Scheduler, open_scheduler, teacher_plans
from kdctl.machine_errors import MachineError, MachineFault, as_machine_errors
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe
from kdctl.recipe.space import Search
from kdctl.records import EpochResult, RunState, Selection, StoredRun, SweepMember
from kdctl.store.briefs import RunBrief
from kdctl.store.store import Store
from kdctl.store.sweep_files import keep_sweep
from kdctl.sweep.dashboard import Evidence
from kdctl.sweep.study import ConfigurationStudy, Proposal, open_study
from kdctl.workflows.disk import missing_bytes
from kdctl.workflows.metering import Meter, spent_seconds
from kdctl.workflows.racing import accuracy
from kdctl.workflows.rounds import OPEN, Rounds
from kdctl.workflows.sweep_plan import SweepPlan, plan_sweep

TELLING_SECONDS = 5.0
"""After a wish to stop, Optuna is told of ended configurations for so long; the next start tells the rest."""


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What a sweep came to."""

    name: str
    runs: tuple[StoredRun, ...]
    """All runs, teachers among them, in the order in which they were planned."""
    students: tuple[StoredRun, ...]
    """Those of them that the recipe asks for itself."""
    complete: bool
    """False: it was stopped, and the same command goes on."""
    failures: tuple[Mistake, ...]
    """What is to be mended for the runs that failed."""
    select: Selection = Selection.LAST
    """Which epoch counts, as the recipe's `[report]` says."""
    budget: str = ""
    """Which part of the budget ended it, in words; empty if none did."""
    fault: MachineFault | None = None
    """What the machine refused, if that ended it: a full disk, data that are gone. The same call goes on."""
    missing_bytes: int = 0
    """Room on the disk that the rest needs beyond what is free, if room is what it lacks; 0: not known."""


def sweep(
    recipe: SweepPlan | Recipe | Path | str,
    workspace: Workspace,
    *,
    executor: ExecutorConfig | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    gang_size: int = DEFAULT_GANG_SIZE,
    retry_failed: bool = False,
    replace: bool = False,
) -> SweepOutcome:
    """Run what the recipe asks for and the store does not have yet.

    Any number of starts, after each other or at once, train every run once.

    Args:
        recipe: what to run; a plan of it, as `plan_sweep` made it, is not made again.
        workspace: where runs and data lie.
        executor: who trains; this process if not given. Results do not depend on it.
        progress: is told how it goes.
        stop: says when to save everything and return.
        gang_size: runs that train in lockstep, at most.
        retry_failed: start runs again that failed before; not read beside a plan, which says so itself.
        replace: let the name of the recipe mean this content from now on; not read beside a plan either.

    Raises:
        RecipeError: everything that is wrong with the recipe.
        UsageError: there is a sweep of this name with other content.
        KdctlError: device or data are missing; then nothing was started.
    """
    plan = plan_sweep(recipe, workspace, retry_failed=retry_failed, replace=replace)
    spent, split = spent_seconds(plan, workspace), _split(plan.recipe)
    require_ready(plan.ahead, workspace)
    meter = Meter(inner=progress or Silent(), budget=plan.recipe.limits.budget, spent_seconds=spent)
    running: _RunningSweep | None = None
    try:
        with (
            as_machine_errors(),
            open_study(workspace.runs / DATABASE, plan.study, split=split) as study,
            open_scheduler(
                workspace,
                executor=executor,
                progress=meter,
                stop=lambda: stop() or bool(meter.used_up()),
                gang_size=gang_size,
                retry_failed=plan.retry_failed,
            ) as scheduler,
        ):
            running = _RunningSweep(plan.planner, study, scheduler, meter, plan.leaving)
            complete = running.search(plan.recipe.search) if plan.recipe.search else running.grid()
            return running.outcome(complete=complete)
    except MachineError as error:
        if running is None:
            raise
        room = {"gang_size": gang_size, "slots": running.scheduler.executor.slots}
        lacks = missing_bytes(plan, workspace, **room) if error.fault.needs_room else 0
        stopped = running.outcome(complete=False)
        return dataclasses.replace(stopped, budget="", fault=error.fault, missing_bytes=lacks)


@dataclass
class _RunningSweep:
    """One sweep while it runs."""

    planner: Planner
    study: ConfigurationStudy
    scheduler: Scheduler
    meter: Meter
    leaving: Sequence[str]
    """Keys of runs that belong to this sweep no more."""
    roles: dict[str, str] = field(default_factory=dict[str, str])
    """By run key: 'student' or 'teacher'."""
    cut_off: bool = False
    """Whether some runs were not started because enough others were."""

    def grid(self) -> bool:
        """Run all points; gangs form over everything that shares a seed and a teacher."""
        return self._complete(self.study.propose_grid(self.planner.recipe.points), "test")

    def search(self, search: Search) -> bool:
        """Finish the configurations of earlier starts, then ask for new ones until there were enough."""
        proposals = self.study.proposals() or self.study.propose_search(search)
        chosen = 0
        while proposals:
            chosen += len(proposals)
            num_later = max(search.trials - chosen, 0)
            if not self._complete(self._rivals(proposals), search.metric, num_later=num_later):
                return False
            proposals = self.study.propose_search(search)
        return True

    def _rivals(self, proposals: Sequence[Proposal]) -> Sequence[Proposal]:
        """Return a search's proposals with those before them that they are held against."""
        if self.planner.recipe.limits.pruning is None:
            return proposals
        return [known for known in self.study.proposals() if known.trial <= proposals[-1].trial]

    def outcome(self, *, complete: bool) -> SweepOutcome:
        """Return the state of all runs."""
        runs = self.scheduler.workspace.store.runs(keys=self.roles)
        return SweepOutcome(
            name=self.planner.recipe.name,
            runs=tuple(runs),
            students=tuple(run for run in runs if self.roles[run.key] == "student"),
            complete=complete,
            failures=mistakes_of(runs, self.scheduler.failures),
            select=Selection(self.planner.recipe.tree.get("report", {}).get("select", Selection.LAST)),
            budget="" if complete else self._ended_by_budget(),
        )

    def _ended_by_budget(self) -> str:
        limit = self.planner.recipe.limits.budget.max_runs
        return self.meter.used_up() or (f"max_runs = {limit} were started" if self.cut_off else "")

    def _complete(self, proposals: Sequence[Proposal], metric: str, num_later: int = 0) -> bool:
        """Run configurations and tell Optuna their means; False while some of their runs are open."""
        recipe = self.planner.recipe
        self._keep_members(self.planner.runs(proposal.point for proposal in proposals))
        rounds = Rounds(
            store=self.scheduler.workspace.store,
            folder=self.scheduler.workspace.folder,
            limits=recipe.limits,
            progress=self.meter,
            train=self._train,
            later=num_later * len(recipe.seeds),
            by_turns=recipe.search is not None,
        )
        replicates = (self.planner.replicates(proposal.point) for proposal in proposals)
        is_through = rounds.run(list({plans[0].configuration: plans for plans in replicates}.values()))
        return self._tell_all(proposals, metric, rounds.pruned) and is_through

    def _keep_members(self, plans: Sequence[RunPlan]) -> None:
        """Keep runs and their teachers in the store, as members of this sweep."""
        recipe, workspace = self.planner.recipe, self.scheduler.workspace
        teachers = teacher_plans(plans)
        everything = {plan.key: plan for plan in (*teachers, *plans)}
        known = workspace.store.states(everything)
        workspace.store.add_runs([plan.planned() for key, plan in everything.items() if key not in known])
        roles = {plan.key: "teacher" for plan in teachers} | {plan.key: "student" for plan in plans}
        self.roles |= roles
        keep_sweep(
            *(workspace.store, workspace.runs, recipe.name, recipe.tree),
            members=[SweepMember(run_key=key, role=role) for key, role in roles.items()],
            leaving=self.leaving,
        )

    def _tell_all(self, proposals: Sequence[Proposal], metric: str, pruned: Container[str]) -> bool:
        """Tell Optuna of configurations that have ended; False if a wish to stop cuts that short.

        Args:
            proposals: of the configurations.
            metric: the split that they are measured on.
            pruned: configurations that did not get beyond a rung.
        """
        stopped = math.inf
        told = self.study.told_in_part(proposals)
        self.study.reopen([each for each, known in told if len(_values(self._runs(each), metric)) > known])
        for proposal in self.study.untold(proposals):
            now = time.monotonic()
            stopped = min(stopped, now) if self.scheduler.stop() else math.inf
            if now - stopped > TELLING_SECONDS:
                return False
            runs = self._runs(proposal)
            self._tell(proposal, runs, metric, pruned=runs[0].configuration in pruned)
        return True

    def _runs(self, proposal: Proposal) -> list[StoredRun]:
        """Return all seeds of a configuration."""
        plans = self.planner.replicates(proposal.point)
        return self.scheduler.workspace.store.runs(keys=[plan.key for plan in plans])

    def _train(self, plans: Sequence[RunPlan], *, later: int, until: int | None = None) -> None:
        """Train as many of the runs as the budget allows, dropped ones too that this recipe wants."""
        store, limit = self.scheduler.workspace.store, self.planner.recipe.limits.budget.max_runs
        keys = [plan.key for plan in plans]
        store.revive([*set(keys) - store.past(keys, until)] if until else keys)
        if limit is not None:
            students = [key for key, role in self.roles.items() if role == "student"]
            started = {run.key for run in store.briefs(students) if _has_started(run)}
            new = [plan.key for plan in plans if plan.key not in started]
            allowed = started | set(new[: max(limit - len(started), 0)])
            self.cut_off = self.cut_off or len(new) > limit - len(started)
            plans = [plan for plan in plans if plan.key in allowed]
        self.scheduler.complete(plans, later=later, until=until)

    def _tell(self, proposal: Proposal, runs: Sequence[StoredRun], metric: str, *, pruned: bool) -> None:
        """Tell Optuna the mean over seeds, once all of them have ended, or that there will be none."""
        if pruned:
            self.study.tell_pruned(proposal)
        elif not any(run.state in OPEN for run in runs):
            known = _evidence(self.scheduler.workspace.store, runs, metric)
            self.study.tell(proposal, fmean(known.values) if known.values else None, known)


def _split(recipe: Recipe) -> str:
    """Return the split on which a sweep's configurations are measured."""
    return recipe.search.metric if recipe.search else "test"


def _has_started(run: RunBrief) -> bool:
    """Return whether a budget has paid for a run, whatever became of it."""
    return bool(run.epochs) or run.state not in (RunState.PLANNED, RunState.PRUNED)


def _evidence(store: Store, runs: Sequence[StoredRun], split: str) -> Evidence:
    """Return seeds, keys, values, mean curve and times of the runs of one configuration.

    Args:
        store: holds their epochs.
        runs: all seeds, whatever became of them.
        split: on which the configuration is measured, 'test' or 'val'.
    """
    epochs = {run.key: store.epochs(run.key) for run in runs}
    values = _values(runs, split)
    curves = [_curve(epochs[key], split) for key in values]
    common = set[int].intersection(*map(set, curves)) if curves else set[int]()
    timed = [[epoch for epoch in each if epoch.ended] for each in epochs.values()]
    timed = [each for each in timed if each and each[0].started and each[-1].ended_at]
    return Evidence(
        seeds=tuple(run.seed for run in runs),
        run_keys=tuple(run.key for run in runs),
        values=tuple(values.values()),
        curve={number: fmean(curve[number] for curve in curves) for number in sorted(common)},
        started=min((each[0].started for each in timed), default=None),
        ended=max((each[-1].ended for each in timed), default=None),
    )


def _values(runs: Sequence[StoredRun], split: str) -> dict[str, float]:
    """Return the accuracies of the runs that have one, by run key."""
    return {run.key: value for run in runs if (value := accuracy(run, split)) is not None}


def _curve(epochs: Sequence[EpochResult], split: str) -> dict[int, float]:
    metrics = ((epoch.epoch, epoch.val if split == "val" else epoch.test) for epoch in epochs)
    return {number: each.top1 for number, each in metrics if each is not None}
