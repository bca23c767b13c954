"""`kdctl runs`: look through stored runs, compare them, and tidy up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdctl.cli import options
from kdctl.records import RunState

if TYPE_CHECKING:
    from kdctl.recipe.plan import RunPlan
    from kdctl.store.briefs import RunBrief
    from kdctl.workflows.differences import RunDifference

RunKey = Annotated[
    str, typer.Argument(metavar="RUN", help="Key of a run, or its first digits: kdctl runs list.")
]

SHOWN_DIGITS = 16
"""Digits of a key in lists: all of them, so that a line can be copied."""

browsing = typer.Typer(
    help="List, show, compare and remove stored runs, or free the disk of their checkpoints.",
    no_args_is_help=True,
)


@browsing.command("list")
def list_runs(
    state: Annotated[
        list[RunState] | None,
        typer.Option(metavar="STATE", help=f"Only runs in this state: {', '.join(RunState)}; may repeat."),
    ] = None,
    method: Annotated[str, typer.Option(help="Only runs of this method.")] = "",
    student: Annotated[str, typer.Option(help="Only students of this architecture.")] = "",
    teacher: Annotated[str, typer.Option(help="Only runs that this architecture teaches.")] = "",
    sweep: Annotated[str | None, typer.Option(help="Only runs of this sweep.")] = None,
    since: Annotated[
        str, typer.Option(help="Only runs that changed since: 2026-01-31, '2026-01-31 18:00' (UTC), 12h, 3d.")
    ] = "",
    sort: Annotated[
        str,
        typer.Option(
            help="student, teacher, method, seed, state, updated or top1; else in the order of planning."
        ),
    ] = "",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    runs: options.Runs = options.DEFAULT_RUNS,
    form: options.OutputListFormat = options.ListFormat.TEXT,
) -> None:
    """List the runs of the store.

    For example: kdctl runs list --state finished --method simkd --sort top1 --reverse
    """
    from kdctl import workflows
    from kdctl.cli.console_tables import show_rows
    from kdctl.workflows.browsing import RunFilter

    chosen = RunFilter(
        states=state or (), method=method, student=student, teacher=teacher, sweep=sweep, since=since
    )
    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        found = workflows.list_runs(workspace, chosen, order=sort, descending=reverse)
    empty = "nothing yet" if chosen == RunFilter() else "no run meets all conditions"
    show_rows([_row(run, form) for run in found], form, empty=empty)


@browsing.command("show")
def show(
    run: RunKey,
    runs: options.Runs = options.DEFAULT_RUNS,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Show everything about a run: result, curves, files, evaluations, environment and resolved plan.

    For example: kdctl runs show 3f2a
    """
    from kdctl import workflows
    from kdctl.cli.details import show_details

    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        details = workflows.describe_run(workspace, run)
    show_details(details, form)


@browsing.command("diff")
def diff(
    run: RunKey,
    other: Annotated[
        str, typer.Argument(metavar="RUN|RECIPE", help="Another run, or a recipe: its most similar run.")
    ],
    override: options.Overrides = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Say why two runs are not the same: the settings that differ, and no others.

    For example: kdctl runs diff 3f2a 77c0, or kdctl runs diff 3f2a recipes/quickstart.toml
    """
    from kdctl import workflows
    from kdctl.errors import UsageError
    from kdctl.workflows.differences import is_recipe

    with workflows.open_workspace(runs, data, create=False, read_only=True) as workspace:
        if is_recipe(other):
            planned: str | tuple[RunPlan, ...] = _planned(Path(other), override, plugin, runs, data)
        elif override:
            raise UsageError(f"-o {override[0]} changes a recipe, and {other} is none.", "leave -o out.")
        else:
            planned = other
        difference = workflows.compare_runs(workspace, run, planned)
    _show_difference(difference, form)


def _planned(
    recipe: Path, override: list[str] | None, plugin: list[Path] | None, runs: Path, data: Path
) -> tuple[RunPlan, ...]:
    """Return the runs that a recipe plans, teachers too."""
    from kdctl import workflows

    opened = workflows.open_recipe(recipe, override or [], plugin or [])
    with workflows.open_for_planning(runs, data) as workspace:
        plan = workflows.plan_sweep(opened, workspace, replace=True)  # it is not going to run
    return (*plan.runs, *plan.teachers)


def _row(run: RunBrief, form: options.ListFormat) -> dict[str, Any]:
    """Return what a list shows of a run; programs are also told why it failed or was dropped."""
    reason = {} if form is options.ListFormat.TEXT else {"reason": run.reason or None}
    return {
        "run": run.key[:SHOWN_DIGITS],
        "student": run.student,
        "teacher": " + ".join(run.teachers) or None,
        "method": run.method,
        "lr": None if run.learning_rate is None else f"{run.learning_rate:g}",
        "seed": run.seed,
        "state": run.state.value,
        "epochs": run.epochs,
        "of": run.planned_epochs,
        "top1": run.top1,
        "updated": run.updated[:19],
        **reason,
    }


def _show_difference(difference: RunDifference, form: options.Format) -> None:
    from kdctl.cli.console import print_json, say
    from kdctl.cli.console_tables import print_table
    from kdctl.cli.formatting import setting
    from kdctl.serialization import to_tree

    if form is options.Format.JSON:
        print_json(**to_tree(difference))
        return
    if difference.left == difference.right:
        say("the same run")
    elif difference.same_configuration:
        say("the same configuration with another seed")
    if difference.differences:
        rows = [
            [item.field, setting(item.left), setting(item.right), "" if item.counts else "no part of the key"]
            for item in difference.differences
        ]
        print_table(("field", difference.left, difference.right, ""), rows)
