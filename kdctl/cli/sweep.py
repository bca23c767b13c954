"""`kdctl sweep`: every configuration of a recipe, with every seed."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import executor_options, options, recipe_options
from kdctl.cli.short_names import takes_short_names
from kdctl.errors import KdctlError, Mistake
from kdctl.machine_errors import GOES_ON, MachineFault
from kdctl.records import RunState

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Workspace
    from kdctl.cli.events import Events
    from kdctl.cli.live import Display
    from kdctl.cli.signals import StopSignals
    from kdctl.execution.executor import ExecutorConfig
    from kdctl.workflows.concluding import Conclusion
    from kdctl.workflows.disk import DiskNeed
    from kdctl.workflows.sweep_plan import SweepPlan
    from kdctl.workflows.sweeping import SweepOutcome

FAILED_RUNS = 3
"""Exit code of a sweep with runs that failed."""

RecipeFile = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A TOML file, or the name of a recipe that kdctl has: kdctl list recipes."
    ),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", rich_help_panel=options.RECIPE, help="Start failed runs again.")
]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke",
        rich_help_panel=options.RECIPE,
        help="Scale everything down, teachers too, to try a recipe in minutes.",
    ),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        rich_help_panel=options.RECIPE,
        help="Let the name of a known sweep mean this recipe from now on; its other runs stay stored.",
    ),
]


@takes_short_names
def sweep(
    recipe: RecipeFile,
    override: options.Overrides = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: options.Workers = None,
    graphs: options.Graphs = "auto",
    teacher_cache: options.TeacherCache = "auto",
    gang: executor_options.GangSize = "auto",  # type: ignore[assignment]  # read by the parser
    slots: executor_options.Slots = None,
    executor: executor_options.Executor = "local",
    slurm_option: executor_options.SlurmOptions = None,
    retry_failed: RetryFailed = False,
    smoke: Smoke = False,
    replace: Replace = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.JsonEvents = False,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Run what a recipe asks for and the store does not have yet.

    For example: kdctl sweep quickstart, then kdctl report

    It may be stopped and started again at any moment; no run is lost or trained twice.
    """
    from kdctl import workflows
    from kdctl.cli.events import listener
    from kdctl.cli.signals import StopSignals
    from kdctl.engine.ranks import require_alone
    from kdctl.recipe.shipped import is_shipped

    require_alone(os.environ)
    execution = options.execution(device, threads, workers, graphs, teacher_cache)
    progress = listener(json=json, quiet=quiet, form=form, dry_run=dry_run)
    chosen = executor_options.chosen_executor(executor, slots, slurm_option)
    if not dry_run:
        chosen.require_startable()
    recipe_options.refuse_model(recipe)
    opened = workflows.open_recipe(recipe, override or [], plugin or [], smoke=smoke)
    with workflows.open_for_planning(runs, data, may_fetch=not dry_run, **execution) as workspace:
        plan = workflows.plan_sweep(opened, workspace, retry_failed=retry_failed, replace=replace)
        capacity = chosen.capacity(workspace)
        disk = workflows.estimate_disk(plan, workspace, gang_size=gang, slots=capacity.slots)
        if dry_run:
            _show_dry_run(plan, workspace, chosen, disk, gang_size=gang, form=form)
            return
        workflows.require_ready(plan.ahead, workspace)
        if not quiet and not json:
            _announce(plan, workspace, chosen, gang, progress)
        progress.expect((*plan.teachers, *plan.runs), plan.states)
        if not quiet:
            _say_notes(plan, disk, warnings_only=json or not plan.num_to_do)
    with (
        workflows.open_workspace(runs, workspace.library, **execution) as workspace,
        StopSignals() as stop,
        progress,
    ):
        outcome = workflows.sweep(
            plan, workspace, executor=chosen, progress=progress, stop=stop, gang_size=gang
        )
    _conclude(outcome, progress, stop, form, quiet=quiet, runs=runs, is_shipped=is_shipped(recipe))


def _show_dry_run(
    plan: SweepPlan,
    workspace: Workspace,
    executor: ExecutorConfig,
    disk: DiskNeed | None,
    *,
    gang_size: int,
    form: options.Format,
) -> None:
    """Show what would run, how long it would take and how much room it needs."""
    from kdctl import workflows
    from kdctl.cli.dry_run import show_slowness, show_sweep_plan, warn_of_obstacles

    workflows.require_teacher_batches(plan.ahead, workspace)
    capacity = executor.capacity(workspace)
    estimate = workflows.estimate_sweep(plan, workspace, executor=executor, gang_size=gang_size)
    gangs = workflows.planned_gangs(plan, capacity, gang_size=gang_size)
    show_sweep_plan(plan, estimate, disk, form, num_gangs=len(gangs))
    warn_of_obstacles(plan.ahead, workspace, executor)
    if form is options.Format.TEXT and plan.num_to_do and not capacity.queued:
        show_slowness(plan.ahead, workspace)


def _announce(
    plan: SweepPlan,
    workspace: Workspace,
    executor: ExecutorConfig,
    gang_size: int,
    progress: Events | Display,
) -> None:
    """Say how much there is to do, and how long it takes if it is all done here, one gang after the other."""
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.cli.dry_run import announce_time, show_slowness, sweep_standing

    say(sweep_standing(plan))
    capacity = executor.capacity(workspace)
    if capacity.slots == 1 and not capacity.queued and plan.num_to_do:
        estimate = workflows.estimate_sweep(plan, workspace, executor=executor, gang_size=gang_size)
        announce_time(estimate, progress)
        show_slowness(plan.ahead, workspace)


def _say_notes(plan: SweepPlan, disk: DiskNeed | None, *, warnings_only: bool) -> None:
    from kdctl.cli.console import say, say_notes
    from kdctl.cli.dry_run import joined, lacking_room

    say_notes(plan.notes, warnings_only=warnings_only)
    for line in (*lacking_room(disk), *joined(plan)):
        say(line)


def _conclude(
    outcome: SweepOutcome,
    progress: Events | Display,
    stop: StopSignals,
    form: options.Format,
    *,
    quiet: bool,
    runs: Path,
    is_shipped: bool,
) -> None:
    """Say what a sweep came to, and end with the exit code for it."""
    from kdctl.cli.console import print_mistakes, say
    from kdctl.cli.events import Events

    if isinstance(progress, Events):
        fault = outcome.fault.problem if outcome.fault else ""
        progress.finished(outcome.runs, complete=outcome.complete, budget=outcome.budget, trouble=fault)
    else:
        _show_outcome(outcome, form, quiet=quiet, runs=runs, is_shipped=is_shipped)
    if outcome.fault:
        print_mistakes([*outcome.failures, _worded(outcome.fault, outcome.missing_bytes)])
        raise typer.Exit(1)
    if not outcome.complete:
        stop.exit_if_heard()
    if outcome.budget and not quiet:
        say(f"budget: {outcome.budget}; with a larger [budget], the same command goes on")
    if mistakes := [*outcome.failures, *_all_diverged(outcome)]:
        print_mistakes(mistakes)
        raise typer.Exit(FAILED_RUNS)


def _all_diverged(outcome: SweepOutcome) -> list[Mistake]:
    """Return a mistake where all students diverged; that some of them do is no failure of a sweep."""
    from kdctl.cli.formatting import against_divergence

    states = [run.state for run in outcome.students if run.state is not RunState.PRUNED]
    if not states or set(states) != {RunState.DIVERGED}:
        return []
    number = f"all {len(states)} runs" if len(states) > 1 else "the only run"
    first = outcome.students[0]
    return [Mistake(problem=f"{number} diverged: {first.reason}.", hint=against_divergence(first))]


def _worded(fault: MachineFault, missing_bytes: int) -> Mistake:
    """Say what the machine refused, and how much room the rest needs, if that is known."""
    from kdctl.cli.formatting import file_size

    room = f"free about {file_size(missing_bytes)}; {GOES_ON}" if missing_bytes else fault.hint
    return Mistake(problem=fault.problem, hint=room)


def _show_outcome(
    outcome: SweepOutcome, form: options.Format, *, quiet: bool, runs: Path, is_shipped: bool
) -> None:
    from kdctl.cli.console import print_json, say
    from kdctl.report.leaders import leading_lines, weak_teacher_lines
    from kdctl.serialization import to_tree

    if form is options.Format.JSON:
        print_json(sweep=outcome.name, complete=outcome.complete, runs=[to_tree(run) for run in outcome.runs])
    if quiet:
        return
    counts = Counter(run.state.value for run in outcome.runs)
    say(f"{outcome.name}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    has_table = outcome.complete and any(run.state is RunState.FINISHED for run in outcome.students)
    is_shown = has_table and form is options.Format.TEXT
    if is_shown and (conclusion := _concluded(outcome.name, runs)):
        _show_conclusion(conclusion, outcome.name, runs, is_shipped=is_shipped)
        return
    for line in leading_lines(outcome.students, outcome.select):
        say(line)
    for line in weak_teacher_lines(outcome.runs, outcome.select):
        say(f"warning: {line}")
    if has_table:
        say(f"table: kdctl report --sweep {shlex.quote(outcome.name)}{options.elsewhere(runs)}")


def _concluded(name: str, runs: Path) -> Conclusion | None:
    """Write the table and the page of a sweep; what keeps them from it does not undo what was trained."""
    from kdctl import workflows
    from kdctl.cli.console import say

    try:
        with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
            return workflows.conclude(name, workspace)
    except KdctlError as error:
        say(f"warning: all is trained, but there is no table yet: {error.problem} {error.hint}")
        return None


def _show_conclusion(conclusion: Conclusion, name: str, runs: Path, *, is_shipped: bool) -> None:
    """Print the table of a sweep, and say which files show more and what to type next."""
    from kdctl.cli.console import say
    from kdctl.cli.results import show_table

    show_table(conclusion.table)
    if conclusion.picture:
        say(f"curves: {conclusion.picture}")
    say(f"report: {conclusion.page} (open it in a browser)")
    say(f"for a paper: kdctl report --sweep {shlex.quote(name)}{options.elsewhere(runs)} --format latex")
    if is_shipped:
        say("next, a recipe of your own: kdctl init mine.toml")
