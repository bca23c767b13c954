"""`kdctl watch`: what is in training now, from another terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kdctl.cli.titles import Titles
    from kdctl.workflows.browsing import Activity

_KEY_DIGITS = 6


def watch(
    sweep: Annotated[str | None, typer.Option(help="Only runs of this sweep.")] = None,
    every: Annotated[int, options.number("--every", "Seconds between two looks.", least=1, most=86_400)] = 2,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Show the runs in training: what tells them apart, epoch, loss, accuracy, time left. Ctrl-C ends it.

    For example: kdctl watch --sweep lr_grid

    It reads the database only, so that it can be started and ended at any time. Where a run stands within an
    epoch is estimated from how long the epoch before took.
    """
    from rich.live import Live

    from kdctl import workflows
    from kdctl.cli.console import output
    from kdctl.cli.titles import Titles

    titles = Titles()
    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        if once or not sys.stdout.isatty():
            output().print(_shown(workflows.activity(workspace, sweep=sweep), titles))
            return
        with Live(console=output(), auto_refresh=False, transient=False) as live:
            while True:
                live.update(_shown(workflows.activity(workspace, sweep=sweep), titles), refresh=True)
                time.sleep(every)


def _shown(activity: Activity, titles: Titles) -> RenderableType:
    """Return a line for each run in training, and how many runs stand where."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from kdctl.cli.formatting import duration

    titles.learn(item.run for item in activity.running)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "what differs"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1 if heading != "run" else None)
    for heading in ("epoch", "loss", "top-1", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    for item in activity.running:
        latest = item.latest
        table.add_row(
            item.run.key[:_KEY_DIGITS],
            Text(titles.brief(item.run)),
            "waits" if item.waits else f"{item.position:.1f}/{item.num_epochs}",
            "—" if latest is None else f"{latest.train_loss:.3g}",
            "—" if latest is None else f"{latest.test.top1:.2f} %",
            "—" if item.seconds_left is None else duration(item.seconds_left),
        )
    counts = ", ".join(f"{count} {state.value}" for state, count in activity.counts.items()) or "no runs"
    return Group(table, Text(counts)) if activity.running else Text(f"nothing is in training; {counts}")
