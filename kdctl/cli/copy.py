"""`kdctl runs copy`: take results elsewhere."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from kdctl.cli import options


def copy(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Gets a folder for each run; made if need be.")
    ],
    run: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Keys of runs, or their first digits.")
    ] = None,
    sweep: Annotated[
        list[str] | None, typer.Option("--sweep", metavar="NAME", help="Name of a sweep; may repeat.")
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Copy models, too: they can teach and be evaluated there.")
    ] = False,
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Copy plans, curves and results of runs that have ended to another folder, with their teachers.

    For example: kdctl runs copy appendix --sweep quickstart

    For a paper's appendix, a colleague or another machine; kdctl sync --runs appendix makes a store of it.
    Nothing that lies there is replaced.
    """
    from kdctl import workflows
    from kdctl.cli.console import print_mistakes, say
    from kdctl.text import plural

    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        report = workflows.copy_runs(
            workspace, folder, run or (), sweeps=sweep or (), checkpoints=checkpoints
        )
    say(f"{plural(len(report.copied), 'run')} copied to {folder}, {len(report.there)} there already")
    if report.unfinished:
        states = Counter(item.state.value for item in report.unfinished)
        parts = ", ".join(f"{number} {state}" for state, number in states.items())
        say(f"not copied, for they have not ended: {parts}")
    print_mistakes(report.refused)
    if report.refused:
        raise typer.Exit(1)
    say(f"to look at them there: kdctl sync --runs {shlex.quote(str(folder))}")
