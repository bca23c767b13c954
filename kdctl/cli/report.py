"""`kdctl report`: mean ± std tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options
from kdctl.errors import UsageError
from kdctl.records import Selection

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Workspace
    from kdctl.workflows.drawing import Which

WHICH = "Which runs"
LAYOUT = "How the table is laid out"

PAGE_FORMAT = "html"
"""Not a table alone: a page with tables, curves, figures, runs and recipes."""

TERMINAL_FORMAT = "markdown"
"""The format that people read in a terminal: what is too wide for it is folded."""


def report(
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=WHICH,
            help="Name of a sweep, the newest if not given; several stand in one table.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", rich_help_panel=WHICH, help="All runs, also those made by `kdctl train`.")
    ] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE[,VALUE]",
            rich_help_panel=WHICH,
            help="Only runs with these values: student=resnet8, method=kd,simkd; may repeat.",
        ),
    ] = None,
    select: Annotated[
        Selection | None,
        typer.Option(
            rich_help_panel=WHICH,
            help="Which epoch of each run counts; last, unless the recipe says otherwise.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LAYOUT,
            help="list (if not given): a row for each configuration; paper: methods as rows, pairs as "
            "columns; grid: learning rate by loss or projector; overview: the best setting of each; runs: "
            "single runs.",
        ),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=LAYOUT,
            help="Field of the recipe that makes the rows, as method or learning_rate; may repeat.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=LAYOUT, help="Field of the recipe that is spread over columns; may repeat."
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=LAYOUT,
            help="What the cells tell, as top1,top5,val_top1,loss,agreement,ece,seconds,flops; may repeat.",
        ),
    ] = None,
    best_by: Annotated[
        str | None,
        typer.Option(
            metavar="val|test",
            rich_help_panel=LAYOUT,
            help="Show the best setting of each row or cell only, chosen on this split; test is called an "
            "oracle in the caption.",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(rich_help_panel=LAYOUT, help="Column by which the rows are sorted, as top1.")
    ] = "",
    reverse: Annotated[
        bool, typer.Option("--reverse", rich_help_panel=LAYOUT, help="Sort the largest first.")
    ] = False,
    mark_best: Annotated[
        bool,
        typer.Option(
            "--mark-best",
            rich_help_panel=LAYOUT,
            help="Print the best bold and the second underlined, where a test tells them from the others.",
        ),
    ] = False,
    spread: Annotated[
        str,
        typer.Option(
            rich_help_panel=LAYOUT,
            help="What stands after ±: standard deviation of the sample (n − 1) or the population, standard "
            "error of the mean (sem), or half the 95 % confidence interval (ci95).",
        ),
    ] = "sample",
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="published|FILE",
            rich_help_panel=LAYOUT,
            help="Set the published numbers that come with kdctl, or those of a file of yours, beside the "
            "rows they fit; may repeat.",
        ),
    ] = None,
    plugin: options.Plugins = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            rich_help_panel=options.OUTPUT,
            help=f"{options.table_formats()}, or one that a plug-in registers; html: a page with everything, "
            "into a file (-o).",
        ),
    ] = "markdown",
    output: options.OutputFile = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=options.OUTPUT,
            help="Also draw every figure that these runs give, as SVG, PDF and PNG.",
        ),
    ] = None,
    force: options.Force = False,
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Print the mean ± std table of a sweep: n, difference from baseline, teacher, parameters, pruning.

    For example: kdctl report --sweep lr_grid --rows method --columns learning_rate
    """
    from kdctl import workflows
    from kdctl.cli.console import echo
    from kdctl.cli.output_file import require_free, write_result
    from kdctl.cli.table_output import show_table
    from kdctl.plugins import load_plugins
    from kdctl.report.table_format import report_formats

    load_plugins(plugin)
    is_page = form == PAGE_FORMAT
    if is_page and output is None:
        raise UsageError("--format html makes a page, which goes into a file.", "name it: -o report.html")
    render = None if is_page else report_formats.get(form).item
    if output is not None:
        require_free(output, force=force)
    with workflows.open_workspace(runs, create=False, read_only=True) as workspace:
        table = workflows.report(
            workspace,
            sweep=sweep,
            everything=everything,
            against=against or (),
            layout=layout,
            where=where or (),
            rows=_words(rows),
            columns=_words(columns),
            values=_words(values),
            select=select,
            best_by=best_by,
            sort=sort,
            reverse=reverse,
            mark_best=mark_best,
            spread=spread,
        )
        which: Which = {
            "sweep": sweep,
            "everything": everything,
            "where": where or (),
            "select": select or Selection.LAST,
        }
        if figures is not None:
            _draw(workspace, figures, which, force=force)
        page = workflows.html_page([table], workspace, **which) if is_page else ""
    if render is None and output is not None:
        write_result(output, page, force=force)
    if render is None:
        return
    if output is not None:
        write_result(output, render(table), force=force)
    elif report_formats.get(form).name == TERMINAL_FORMAT:
        show_table(table)
    else:
        echo(render(table), end="")


def _draw(workspace: Workspace, folder: Path, which: Which, *, force: bool) -> None:
    """Draw what can be drawn, and say what cannot."""
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.cli.formatting import counted

    drawn = workflows.plot_all(folder, workspace, force=force, **which)
    number = len({file.stem for file in drawn.files})
    say(f"{counted(number, 'figure')} in {folder}, each as SVG, PDF and PNG")
    for mistake in drawn.left_out:
        say(f"left out: {mistake.problem} {mistake.hint}")


def _words(given: list[str] | None) -> list[str]:
    """Return names that were given one by one, or several with commas between."""
    return [word.strip() for text in given or [] for word in text.split(",") if word.strip()]
