"""What `kdctl sweep --dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from kdctl.cli.console import output, print_json, say
from kdctl.cli.formatting import (
    assignments,
    counted_seeds,
    duration,
    evaluation_only,
    file_size,
    flop,
    standing,
)
from kdctl.cli.options import Format
from kdctl.cli.run_tables import planned_trees, show_plans, show_summary
from kdctl.errors import KdctlError
from kdctl.serialization import to_tree
from kdctl.text import plural

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Workspace
    from kdctl.cli.events import Events
    from kdctl.cli.live import Display
    from kdctl.execution.executor import ExecutorConfig
    from kdctl.recipe.limits import Pruning
    from kdctl.recipe.plan import RunPlan
    from kdctl.workflows.disk import DiskNeed
    from kdctl.workflows.estimate import Estimate
    from kdctl.workflows.rungs import RunEpochs
    from kdctl.workflows.sweep_plan import SweepPlan

SLOW_THREADS = 1.3
"""Times slower than a single thread, from which on several are worth a word."""

MOST_LISTED = 30
"""Planned runs that are listed one by one; more of them are summed up by pair."""


def show_sweep_plan(
    plan: SweepPlan, estimate: Estimate | None, disk: DiskNeed | None, form: Format, *, num_gangs: int
) -> None:
    """Print what a sweep would run, how long it would take, and how much room."""
    from kdctl.workflows.rungs import run_epochs

    operations = estimate.operations if estimate else {}
    everything = (*plan.teachers, *plan.runs)
    if form is Format.JSON:
        print_json(
            sweep=plan.recipe.name,
            runs=planned_trees(plan.teachers, plan.runs, plan.states),
            planned_later=plan.num_later,
            done=plan.num_done,
            dropped=plan.num_dropped,
            failed=plan.num_failed,
            estimated_seconds=estimate.seconds if estimate else None,
            estimated_device_seconds=estimate.device_seconds if estimate else None,
            estimated_flop=sum(operations.values()) if estimate else None,
            gangs=num_gangs,
            run_epochs=to_tree(run_epochs(plan.recipe, plan.runs)),
            disk=to_tree(disk),
            notes=plan.notes,
        )
        return
    if len(everything) > MOST_LISTED:
        show_summary(plan.teachers, plan.runs, plan.states, operations)
    elif everything:
        show_plans(plan.teachers, plan.runs, plan.states)
    gangs = f" in {plural(num_gangs, 'gang')}" if num_gangs else ""
    teachers = plural(len(plan.teachers), "teacher")
    seeds = counted_seeds(plan.recipe.seeds, plan.recipe.baseline_seeds)
    configurations = plural(plan.num_configurations, "configuration")
    lines = [
        f"{sweep_standing(plan, told=f'{teachers}, {configurations} × {seeds}; ')}{gangs}",
        estimated(estimate),
        *_room(disk),
        *evaluation_only(plan.runs),
        *_limits(plan),
        *plan.notes,
        *joined(plan),
    ]
    lines[:0] = [f"{layer.source}: {assignments(layer)}" for layer in plan.recipe.layers if layer.above_grid]
    search = plan.recipe.search
    if search:
        lines.insert(
            0,
            f"search: {plural(search.trials, 'configuration')} by {search.sampler}, best on {search.metric}",
        )
    for line in lines:
        output().print(line, markup=False)


def estimated(estimate: Estimate | None) -> str:
    """Say how long it will take."""
    if estimate is None:
        return "estimated time: unknown, the data are not here"
    if not estimate.operations:
        return "estimated time: none, there is nothing to do"
    operations = flop(sum(estimate.operations.values()))
    return f"estimated time: {_time(estimate)}, from {estimate.basis}; {operations}"


def announce_time(estimate: Estimate | None, progress: Events | Display) -> None:
    """Say how long it will take, and by what the time left is to be judged."""
    say(estimated(estimate))
    if estimate:
        progress.expect_pace(estimate.epoch_seconds)


def sweep_standing(plan: SweepPlan, *, told: str = "") -> str:
    """Say how far a sweep is: '16 runs: 9 done, 6 dropped, 1 to do'; with something `told` before it."""
    return standing(
        plan.num_runs, to_do=plan.num_to_do, dropped=plan.num_dropped, failed=plan.num_failed, told=told
    )


def show_slowness(plans: Iterable[RunPlan], workspace: Workspace) -> None:
    """Warn on stderr of bf16 without instructions, and of threads, a few steps of which are measured."""
    from kdctl import workflows

    workflows.warn_of_slow_bf16(plans, workspace)
    ratio = workflows.slowdown_of_threads(workspace)
    if ratio is not None and ratio > SLOW_THREADS:
        say(
            f"note: torch's threads are {ratio:.1f} times slower together here than one alone, because other "
            "programs use the cores: --threads 1 is quicker (and rounds differently)"
        )


def warn_of_obstacles(
    plans: Iterable[RunPlan], workspace: Workspace, executor: ExecutorConfig | None = None
) -> None:
    """Say on stderr what a start would be refused for: a dry run only looks, and goes on."""
    from kdctl import workflows

    checks = [partial(workflows.require_files_of_teachers, plans, workspace)]
    for check in [executor.require_startable, *checks] if executor else checks:
        try:
            check()
        except KdctlError as error:
            say(f"warning: nothing would start as it stands: {error.problem} {error.hint}")


def joined(plan: SweepPlan) -> Iterator[str]:
    """Warn that a grid that drops was extended: its table may not be that of a fresh one."""
    if plan.joins_decided:
        yield (
            "note: new configurations join those that were decided about: all are judged anew, but what was "
            "trained stays in the table, also where a fresh sweep would have dropped it"
        )


def _time(estimate: Estimate) -> str:
    """Word how long it takes; with several gangs at once, what devices spend, too."""
    capacity, spent = estimate.capacity, duration(estimate.device_seconds)
    if capacity.queued:
        together = f"{duration(estimate.seconds)} if {plural(capacity.slots, 'job')} run at once"
        return f"about {spent} of device time ({together}; waiting in the queue is not in it)"
    if capacity.slots == 1:
        return f"about {duration(estimate.seconds)}"
    return f"about {duration(estimate.seconds)} with {capacity.slots} slots ({spent} of device time)"


def _room(disk: DiskNeed | None) -> Iterator[str]:
    if disk is None or not disk.num_bytes:
        return
    need, peak = file_size(disk.num_bytes), file_size(disk.peak_bytes)
    yield f"disk: about {need} of models, {peak} while they train; {file_size(disk.free_bytes)} free"
    yield from lacking_room(disk)


def lacking_room(disk: DiskNeed | None) -> Iterator[str]:
    """Warn of a disk that will not hold what the runs leave behind."""
    if disk is not None and disk.peak_bytes > disk.free_bytes:
        peak, free = file_size(disk.peak_bytes), file_size(disk.free_bytes)
        yield (
            f"warning: the runs need about {peak} of the disk while they train, and {free} are free: "
            "the sweep will stop when it is full; kdctl runs gc makes room"
        )


def _limits(plan: SweepPlan) -> Iterator[str]:
    """Say what will end the sweep early."""
    from kdctl.workflows.rungs import run_epochs

    limits = plan.recipe.limits
    budget, racing, pruning = limits.budget, limits.racing, limits.pruning
    given = [f"{name} = {value:g}" for name, value in vars(budget).items() if value is not None]
    if given:
        yield f"budget: {', '.join(given)}"
    if pruning is not None:
        yield from _rungs(pruning, run_epochs(plan.recipe, plan.runs))
    if racing is not None:
        yield (
            f"racing: after {plural(racing.min_seeds, 'seed')}, what trails by more than {racing.margin:g} "
            f"points on {racing.metric} is dropped; the numbers above are what it takes if nothing is"
        )


def _rungs(pruning: Pruning, epochs: RunEpochs | None) -> Iterator[str]:
    """Say where runs are dropped on their way, and how much of the work is left."""
    share = [f"all but the best {100 * pruning.keep:g} %"] if pruning.keep else []
    trailing = [f"what trails by more than {pruning.margin:g} points"] if pruning.margin else []
    rungs = " and ".join(map(str, pruning.epochs))
    dropped = " and ".join([*share, *trailing])
    yield f"pruning: after epoch {rungs} of the first seed, {dropped} on {pruning.metric} is dropped"
    if epochs is not None:
        number = f"{epochs.fewest:,} to {epochs.everything:,}"
        yield f"epochs of students: {number}, as equals stay and few may trail; the numbers above are for all"
