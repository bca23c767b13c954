"""`kdctl plot`: one figure of what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdctl.cli import options
from kdctl.records import Selection


def plot(
    kind: Annotated[str, typer.Argument(help="Which figure: kdctl list figures.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Where it is written: *.svg, *.pdf or *.png."),
    ],
    sweep: Annotated[
        list[str] | None, typer.Option(help="Name of a sweep, the newest if not given; may repeat.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All runs of the store.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE", help="Only runs with this setting: --where method=kd,simkd; may repeat."
        ),
    ] = None,
    select: Annotated[Selection, typer.Option(help="Which epoch of each run counts.")] = Selection.LAST,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the figure: --set top5=true; may repeat."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Draw one figure of a sweep: curves, learning rates, bars, pruning, classes, maps of features.

    For example: kdctl plot learning_rate -o rates.pdf --sweep lr_grid --where method=kd,simkd
    """
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.plugins import load_plugins

    load_plugins(plugin)
    with workflows.open_workspace(runs, data, device=device, num_threads=threads, create=False) as workspace:
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
