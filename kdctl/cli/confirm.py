"""`kdctl confirm`: the winner of a sweep on fresh seeds."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import executor_options, options
from kdctl.records import Selection

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Workspace
    from kdctl.cli.live import Display
    from kdctl.execution.executor import ExecutorConfig
    from kdctl.workflows.confirming import ConfirmPlan

Seeds = Annotated[
    int | None,
    options.number(
        "--seeds",
        "How many fresh seeds; if not given, as many as the sweep had, at least 3.",
        least=2,
        most=1000,
    ),
]
Select = Annotated[
    Selection | None,
    typer.Option(help="Which epoch counts; if not given, the one of the sweep's report."),
]


def confirm(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="Name of the sweep: kdctl list sweeps.")],
    seeds: Seeds = None,
    select: Select = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: options.Workers = None,
    gang: executor_options.GangSize = "auto",  # type: ignore[assignment]  # read by the parser
    slots: executor_options.Slots = None,
    executor: executor_options.Executor = "local",
    slurm_option: executor_options.SlurmOptions = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    form: options.TableFormat = "markdown",
) -> None:
    """Run the winner of a sweep and its baseline again, on seeds that had no part in choosing it.

    For example: kdctl confirm lr_grid --seeds 5

    The best of many looks too good on the seeds that chose it. Each student has a winner, the best on
    validation images where some were held out. The table shows both results, and compares winner and baseline
    on the fresh seeds alone. The same command again trains nothing.
    """
    from kdctl import workflows
    from kdctl.cli.console import echo, say
    from kdctl.cli.dry_run import warn_of_obstacles
    from kdctl.cli.live import display
    from kdctl.cli.run_tables import show_plans
    from kdctl.cli.signals import StopSignals
    from kdctl.engine.ranks import require_alone
    from kdctl.plugins import load_plugins
    from kdctl.report.table_format import report_formats

    require_alone(os.environ)
    load_plugins(plugin)
    render = report_formats.get(form).item
    chosen = executor_options.chosen_executor(executor, slots, slurm_option)
    if not dry_run:
        chosen.require_startable()
    execution = options.execution(device, threads, workers)
    with (
        workflows.open_workspace(runs, data, create=False, read_only=dry_run, **execution) as workspace,
        StopSignals() as stop,
        display(quiet=quiet) as progress,
    ):
        plan = workflows.plan_confirmation(workspace, sweep, num_seeds=seeds, select=select)
        if dry_run:
            show_plans((), plan.runs, plan.states)
        else:
            workflows.require_ready(plan.to_do, workspace)
        if dry_run or not quiet:
            _announce(plan, workspace, chosen, gang, progress)
        if dry_run:
            warn_of_obstacles(plan.to_do, workspace, chosen)
            return
        progress.expect(plan.runs, plan.states)
        table = workflows.confirm(
            plan, workspace, executor=chosen, progress=progress, stop=stop, gang_size=gang
        )
    if table is None:
        stop.exit_if_heard()
        raise typer.Exit(1)
    echo(render(table))
    if not quiet:
        shown = f"kdctl report --sweep {shlex.quote(plan.name)}{options.elsewhere(runs)}"
        say(f"these runs are the sweep {plan.name}: {shown}")


def _announce(
    plan: ConfirmPlan, workspace: Workspace, executor: ExecutorConfig, gang_size: int, progress: Display
) -> None:
    """Say how much there is to do, and how long it will take."""
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.cli.dry_run import announce_time, show_slowness
    from kdctl.cli.formatting import standing

    say(standing(len(plan.runs), to_do=len(plan.to_do)))
    if plan.to_do:
        estimate = workflows.estimate_confirmation(plan, workspace, executor=executor, gang_size=gang_size)
        announce_time(estimate, progress)
        show_slowness(plan.to_do, workspace)
