"""`kdctl runs rm` and `kdctl runs gc`: make room, and say first what goes and what stays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options

if TYPE_CHECKING:
    from kdctl.store.briefs import RunBrief
    from kdctl.workflows.housekeeping import Collection


def rm(
    run: Annotated[list[str], typer.Argument(metavar="RUN...", help="Keys of runs, or their first digits.")],
    force: Annotated[
        bool, typer.Option("--force", help="Remove teachers, too, that other runs were taught by.")
    ] = False,
    yes: options.Yes = False,
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Remove runs: their results, curves and files, from the database and from disk.

    For example: kdctl runs rm 3f2a 77c0

    A run that a process works on is never removed; a teacher that others need only with --force.
    """
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.cli.formatting import file_size
    from kdctl.text import plural

    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        removal = workflows.plan_removal(workspace, run, force=force)
    for item in removal.runs:
        say(_line(item))
    size = file_size(removal.num_bytes)
    _ask(f"Remove {plural(len(removal.runs), 'run')} for good, {size}?", yes=yes)
    with workflows.open_workspace(runs, create=False) as workspace:
        workflows.remove(workspace, removal)
    say(f"removed {plural(len(removal.runs), 'run')}, {size}")


def gc(
    sweep: Annotated[str | None, typer.Option(help="Only runs of this sweep.")] = None,
    keep_last: Annotated[
        bool, typer.Option("--keep-last", help="Keep the last model of every run; free the best ones only.")
    ] = False,
    teachers: Annotated[
        bool, typer.Option("--teachers", help="Free the last models of teachers, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be freed, and stop.")] = False,
    yes: options.Yes = False,
    runs: options.Runs = options.DEFAULT_RUNS,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Delete checkpoints of runs that have ended; results, curves and plans all stay.

    For example: kdctl runs gc --keep-last --dry-run

    Never freed: what unfinished runs go on from, and teachers of unfinished runs.
    """
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.cli.formatting import file_size

    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        collection = workflows.plan_collection(workspace, sweep=sweep, keep_last=keep_last, teachers=teachers)
    _show(collection, form, done=not dry_run)
    if dry_run:
        return
    if collection.freed:
        _ask(f"Delete the files that are marked 'free', {file_size(collection.num_bytes)}?", yes=yes)
    with workflows.open_workspace(runs, create=False) as workspace:
        workflows.collect(workspace, collection)
    say(f"freed {file_size(collection.num_bytes)}" if collection.freed else "nothing to free")


def _show(collection: Collection, form: options.Format, *, done: bool) -> None:
    """Print what goes and what stays: on stdout where that is all that was asked for."""
    from kdctl.cli.console import messages, output, print_json
    from kdctl.cli.console_tables import print_table
    from kdctl.cli.formatting import file_size
    from kdctl.serialization import to_tree

    if form is options.Format.JSON:
        print_json(freed_bytes=collection.num_bytes, **to_tree(collection))
        return
    freed = [
        [item.run.key, _what(item.run), "free", file_size(sum(item.files.values())), ", ".join(item.files)]
        for item in collection.freed
    ]
    kept = [
        [item.run.key, _what(item.run), "keep", file_size(item.num_bytes), item.reason]
        for item in collection.kept
    ]
    headings = ("run", "what", "", ">size", "files, or why")
    if freed or kept:
        print_table(headings, [*freed, *kept], to=messages() if done else None)
    if not done:
        kept_bytes = sum(item.num_bytes for item in collection.kept)
        output().print(f"{file_size(collection.num_bytes)} to free, {file_size(kept_bytes)} to keep")


def _ask(question: str, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere, only --yes is an answer."""
    from kdctl.errors import UsageError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this deletes files, and there is nobody to ask.", "say --yes to go ahead.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _line(run: RunBrief) -> str:
    top1 = "" if run.top1 is None else f"  {run.top1:.2f} %"
    return f"{run.key}  {_what(run)}  seed {run.seed}  {run.state.value}{top1}"


def _what(run: RunBrief) -> str:
    taught: Sequence[str] = run.teachers
    teachers = f" <- {' + '.join(taught)}" if taught else ""
    return f"{run.student}{teachers} · {run.method}"
