"""`kdctl eval`: the model that a run or a checkpoint would ship."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kdctl.cli import options
from kdctl.records import Selection


def evaluate(
    subject: Annotated[
        str, typer.Argument(metavar="RUN|CHECKPOINT", help="Run key (or its start), or a file.")
    ],
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    select: Annotated[Selection, typer.Option(help="Which epoch's model of a run.")] = Selection.LAST,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    output: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Evaluate what would be shipped (student + projector + teacher head in SimKD), and store the numbers."""
    from kdctl import workflows
    from kdctl.cli.console import output as stdout
    from kdctl.cli.console import plain_table
    from kdctl.plugins import load_plugin_file
    from kdctl.records import to_tree

    for path in plugin or []:
        load_plugin_file(path)
    with workflows.open_workspace(runs, data, device=device, num_threads=threads) as workspace:
        result = workflows.evaluate(subject, workspace, split=split, selection=select)
    if output is options.Format.JSON:
        typer.echo(json.dumps({"schema": 1, **to_tree(result)}))
        return
    agreement = result.teacher_agreement
    table = plain_table("figure", ">value")
    table.add_row("run", result.run_key)
    table.add_row("model", f"{result.selection}, on {result.split}")
    table.add_row("top-1", f"{result.metrics.top1:.2f} %")
    table.add_row("top-5", f"{result.metrics.top5:.2f} %")
    table.add_row("loss", f"{result.metrics.loss:.4f}")
    table.add_row("agreement with teacher", "—" if agreement is None else f"{agreement:.2f} %")
    table.add_row("parameters", f"{result.parameters:,}")
    table.add_row("checkpoint SHA-256", result.checkpoint_sha256[:16])
    stdout().print(table)
