"""`kdctl report`: mean ± std tables."""

from __future__ import annotations

from typing import Annotated

import typer

from kdctl.cli import options
from kdctl.records import Selection


def report(
    sweep: Annotated[str | None, typer.Option(help="Name of the sweep; the newest if not given.")] = None,
    form: options.TableFormat = "markdown",
    rows: Annotated[
        list[str] | None,
        typer.Option(help="Field of the recipe that makes the rows, as method or learning_rate; may repeat."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Field of the recipe that is spread over columns; may repeat."),
    ] = None,
    select: Annotated[
        Selection | None,
        typer.Option(help="Which epoch of each run counts; last, unless the recipe says otherwise."),
    ] = None,
    spread: Annotated[
        str,
        typer.Option(
            help="What stands after ±: standard deviation of the sample (n − 1) or the population, standard "
            "error of the mean (sem), or half the 95 % confidence interval (ci95).",
        ),
    ] = "sample",
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Print the mean ± std table of a sweep: n, difference from baseline, teacher, parameters, pruning.

    For example: kdctl report --sweep lr_grid --rows method --columns learning_rate
    """
    from kdctl import workflows
    from kdctl.report.table_format import report_formats

    render = report_formats.get(form).item
    with workflows.open_workspace(runs, create=False) as workspace:
        table = workflows.report(
            workspace, sweep=sweep, rows=rows or (), columns=columns or (), select=select, spread=spread
        )
    typer.echo(render(table))
