"""`kdctl plot`: one figure of what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdctl.cli import options, report_options


def plot(
    kind: Annotated[str, typer.Argument(metavar="FIGURE", help="Which figure: kdctl list figures.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Where it is written: *.svg, *.pdf or *.png."),
    ],
    sweep: report_options.Sweeps = None,
    everything: report_options.Everything = False,
    where: report_options.Where = None,
    select: report_options.SelectOrAsReported = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the figure: --set top5=true; may repeat."
        ),
    ] = None,
    force: options.Force = False,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: options.Workers = None,
) -> None:
    """Draw one figure of a sweep: curves, learning rates, bars, pruning, classes, maps of features.

    For example: kdctl plot learning_rate -o rates.pdf --sweep lr_grid --where method=kd,simkd
    """
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.plugins import load_plugins

    load_plugins(plugin)
    execution = options.execution(device, threads, workers)
    with workflows.open_workspace(runs, data, create=False, read_only=True, **execution) as workspace:
        workflows.plot(
            kind,
            output,
            workspace,
            sweep=sweep,
            everything=everything,
            where=where or (),
            select=select,
            settings=settings or (),
            force=force,
        )
    say(f"wrote {output}")
