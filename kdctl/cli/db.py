"""`kdctl db` and `kdctl sync`: the health of the store, copies of it, and rebuilding it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options

if TYPE_CHECKING:
    from kdctl.records import RunState
    from kdctl.workflows.syncing import SyncReport

NAMED = 20
"""At most so many runs are named one by one."""

FOUND_PROBLEMS = 1
"""Exit code of a check that found something, and of a sync that could not read everything."""

database = typer.Typer(help="Check, back up or export the database of runs.", no_args_is_help=True)


@database.command("check")
def check(
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Read every checkpoint, too, and compare its SHA-256.")
    ] = False,
    runs: options.Runs = options.DEFAULT_RUNS,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Look for damage, and for contradictions between database and run folders; changes nothing.

    For example: kdctl db check --hashes

    Exit code 1 if something is wrong.
    """
    from kdctl import workflows
    from kdctl.cli.console import output, print_json, print_mistakes
    from kdctl.serialization import to_tree
    from kdctl.text import plural

    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        health = workflows.check(workspace, hashes=hashes)
    if form is options.Format.JSON:
        print_json(**to_tree(health))
    else:
        found = "all is well" if not health.findings else plural(len(health.findings), "problem")
        output().print(
            f"{plural(health.num_runs, 'run')}, {plural(health.num_folders, 'folder')}, "
            f"{plural(health.num_sweeps, 'sweep')}: {found}"
        )
    if health.findings:
        print_mistakes(health.findings)
        raise typer.Exit(FOUND_PROBLEMS)


@database.command("backup")
def backup(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The copy; runs/backups/kdctl-<time>.db if not given."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Copy the database, also while a sweep writes to it. Run folders are not copied.

    For example: kdctl db backup /mnt/safe/kdctl.db
    """
    from kdctl import workflows
    from kdctl.cli.console import echo

    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        copy = workflows.back_up(workspace, target, force=force)
    echo(str(copy))


@database.command("export")
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the tables are written.")],
    form: Annotated[str, typer.Option("--format", help="csv, json or parquet.")] = "csv",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier export.")] = False,
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Write runs, epochs, evaluations, artifacts, sweeps and members as plain tables.

    For example: kdctl db export tables --format parquet
    """
    from kdctl import workflows
    from kdctl.cli.console import echo

    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        paths = workflows.export(workspace, folder, form=form, force=force)
    for path in paths:
        echo(str(path))


def sync(
    runs: options.Runs = options.DEFAULT_RUNS,
    quiet: options.Quiet = False,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Read run folders and sweeps into the database: folders from elsewhere, or after it was lost.

    For example: kdctl sync --runs runs

    Doing so again changes nothing. Exit code 1 if a folder could not be read; the others are.
    """
    from kdctl import workflows
    from kdctl.cli.console import messages, print_json, print_mistakes
    from kdctl.errors import KdctlError
    from kdctl.serialization import to_tree

    if not runs.is_dir():
        raise KdctlError(f"there is no folder {runs}.", "name the folder that holds your runs: --runs.")

    def show(done: int, total: int) -> None:
        if done < total and not quiet and sys.stderr.isatty():
            messages().print(f"{done}/{total} folders", end="\r")

    with workflows.open_workspace(runs) as workspace:
        report = workflows.synchronise(workspace, progress=show)
    if form is options.Format.JSON:
        print_json(**to_tree(report))
    else:
        _show(report)
    if report.damaged:
        print_mistakes(report.damaged)
        raise typer.Exit(FOUND_PROBLEMS)


def _show(report: SyncReport) -> None:
    from kdctl.cli.console import output
    from kdctl.text import plural

    lines = [
        *_named("new", report.added),
        *_named("changed", report.changed),
        *(f"sweep {name}" for name in report.sweeps),
        *(f"removed {key}, as was begun" for key in report.removed),
        f"{plural(len(report.added), 'run')} new, {len(report.changed)} changed, "
        f"{report.num_unchanged} as before; {plural(len(report.sweeps), 'sweep')} new or changed",
    ]
    for line in lines:
        output().print(line, markup=False)


def _named(what: str, states: Mapping[str, RunState]) -> list[str]:
    named = [f"{what} {key}  {state.value}" for key, state in list(states.items())[:NAMED]]
    more = len(states) - NAMED
    return [*named, f"{what}: {more} more"] if more > 0 else named
