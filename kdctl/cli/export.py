"""`kdctl export`: runs, for the programs in which a lab looks at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdctl.cli import options, report_options


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it is written; made if need be.")],
    to: Annotated[str, typer.Option("--to", metavar="TRACKER", help="tensorboard, mlflow or wandb.")],
    sweep: report_options.Sweeps = None,
    everything: report_options.Everything = False,
    where: report_options.Where = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Write the runs of a sweep for TensorBoard, MLflow or Weights & Biases, from the store, at any time.

    For example: kdctl export logs --to tensorboard, then tensorboard --logdir logs

    Epochs stand at the times when they ended. Nothing is sent anywhere. Plain tables: kdctl db export.
    """
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.plugins import load_plugins
    from kdctl.text import plural

    load_plugins(plugin)
    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        exported = workflows.export_to_tracker(
            to, folder, workspace, sweep=sweep, everything=everything, where=where or ()
        )
    say(f"{plural(exported.num_runs, 'run')} written to {folder}")
    if exported.command:
        say(f"to look at them: {exported.command}")
