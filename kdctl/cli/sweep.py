"""`kdctl sweep`: every configuration of a recipe, with every seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options

if TYPE_CHECKING:
    from kdctl.workflows.sweeping import SweepOutcome, SweepPlan
    from kdctl.workflows.workspace import Workspace

FAILED_RUNS = 3


def sweep(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    override: options.Overrides = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    gang: options.GangSize = 8,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Start failed runs again.")] = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    output: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Run what a recipe asks for and the store does not have yet.

    It may be stopped and started again at any moment; no run is lost or trained twice.
    """
    from kdctl import workflows
    from kdctl.cli.live import display
    from kdctl.cli.signals import StopSignals

    opened = workflows.open_recipe(recipe, override or [], plugin or [])
    with workflows.open_workspace(runs, data, device=device, num_threads=threads) as workspace:
        if dry_run:
            _show_plan(workflows.plan_sweep(opened, workspace), workspace, output)
            return
        with StopSignals() as stop, display(quiet=quiet) as progress:
            outcome = workflows.sweep(
                opened, workspace, progress=progress, stop=stop, gang_size=gang, retry_failed=retry_failed
            )
    _show_outcome(outcome, output, quiet=quiet)
    if stop.exit_code:
        raise typer.Exit(stop.exit_code)
    if outcome.failed:
        raise typer.Exit(FAILED_RUNS)


def _show_plan(plan: SweepPlan, workspace: Workspace, output: options.Format) -> None:
    from kdctl.cli.console import output as stdout
    from kdctl.cli.console import plain_table
    from kdctl.cli.live import describe, duration
    from kdctl.records import SETTLED
    from kdctl.workflows.estimate import estimate_time

    everything = (*plan.teachers, *plan.runs)
    done = sum(plan.states.get(run.key) in SETTLED for run in everything)
    estimate = estimate_time(everything, plan.states, workspace)
    if output is options.Format.JSON:
        rows = [
            {"run": run.key, "state": plan.states.get(run.key, "new"), "plan": run.tree()}
            for run in everything
        ]
        seconds = estimate.seconds if estimate else None
        typer.echo(json.dumps({"schema": 1, "runs": rows, "done": done, "estimated_seconds": seconds}))
        return
    table = plain_table("run", "what", ">epochs", "state")
    for run in everything:
        table.add_row(run.key[:8], describe(run), str(run.epochs), str(plan.states.get(run.key, "new")))
    console = stdout()
    console.print(table)
    search = plan.recipe.search
    if search:
        console.print(
            f"search: {search.trials} configurations by {search.sampler}, "
            f"each with {len(plan.recipe.seeds)} seeds"
        )
    configurations = len({run.configuration for run in plan.runs})
    console.print(
        f"{len(everything)} runs: {len(plan.teachers)} teachers, {configurations} configurations x "
        f"{len(plan.recipe.seeds)} seeds; {done} done, {len(everything) - done} to do"
    )
    time_left = (
        f"about {duration(estimate.seconds)} (from {estimate.basis})"
        if estimate
        else "unknown: the data are not here"
    )
    console.print(f"estimated time: {time_left}")


def _show_outcome(outcome: SweepOutcome, output: options.Format, *, quiet: bool) -> None:
    from collections import Counter

    from kdctl.cli.console import messages
    from kdctl.records import to_tree

    counts = Counter(run.state.value for run in outcome.runs)
    if output is options.Format.JSON:
        typer.echo(
            json.dumps({"schema": 1, "sweep": outcome.name, "runs": [to_tree(run) for run in outcome.runs]})
        )
    if quiet:
        return
    console = messages()
    console.print(f"{outcome.name}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for run in outcome.failed:
        console.print(f"{run.key[:8]}  failed: {run.reason}", markup=False)
    console.print(
        "the same command goes on from here" if not outcome.complete else "kdctl report shows the table"
    )
