"""`kdctl report`: mean ± std tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdctl.cli import options, report_options
from kdctl.errors import UsageError, suggestion

if TYPE_CHECKING:
    from kdctl.assembly.workspace import Workspace
    from kdctl.registry import Entry
    from kdctl.report.table_format import Table
    from kdctl.workflows.plots import Which

PAGE_FORMAT = "html"
"""Not a table alone: a page with tables, curves, figures, runs and recipes."""

_PAGE_ENDINGS = (PAGE_FORMAT, "htm")
_TEXT_ENDINGS = ("", "txt", "text", "markdown")
"""Of files that hold a table as a terminal shows it, as do those without an ending."""

TERMINAL_FORMAT = "markdown"
"""The format that people read in a terminal: what is too wide for it is folded."""


def report(
    sweep: report_options.Sweeps = None,
    everything: report_options.Everything = False,
    where: report_options.Where = None,
    select: report_options.SelectOrAsReported = None,
    layout: report_options.Layout = None,
    rows: report_options.Rows = None,
    columns: report_options.Columns = None,
    values: report_options.Values = None,
    best_by: report_options.BestBy = None,
    sort: report_options.Sort = "",
    reverse: report_options.Reverse = False,
    mark_best: report_options.MarkBest = False,
    intervals: report_options.Intervals = False,
    versus_best: report_options.VersusBest = False,
    spread: report_options.Spread = "sample",
    against: report_options.Against = None,
    plugin: options.Plugins = None,
    form: report_options.ReportFormat = None,
    output: options.OutputFile = None,
    figures: report_options.Figures = None,
    force: options.Force = False,
    runs: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """Print the mean ± std table of a sweep: n, difference from baseline, teacher, parameters, pruning.

    For example: kdctl report --sweep lr_grid --rows method --columns learning_rate
    """
    from kdctl import workflows
    from kdctl.plugins import load_plugins

    load_plugins(plugin)
    chosen = _chosen_format(form, output, force=force)
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
            intervals=intervals,
            versus_best=versus_best,
            spread=spread,
        )
        which: Which = {
            "sweep": sweep,
            "everything": everything,
            "where": where or (),
            "select": select,
        }
        if figures is not None:
            _draw(workspace, figures, which, force=force)
        text = chosen.item(table) if chosen else workflows.html_page([table], workspace, **which)
    _hand_out(table, text, output, force=force, for_people=bool(chosen and chosen.name == TERMINAL_FORMAT))


def _chosen_format(
    form: str | None, output: Path | None, *, force: bool
) -> Entry[Callable[[Table], str]] | None:
    """Return the table format called `form`, else the one that the ending of a file names; None for a page.

    Raises:
        UsageError: there is no such format, none is written to files that end so, or a page has no file to
            go into.
        KdctlError: the file is there already, or its folder is not.
    """
    from kdctl.cli.results import require_free
    from kdctl.report.table_format import report_formats

    if form is None:
        ending = output.suffix[1:].lower() if output else ""
        form = TERMINAL_FORMAT if ending in _TEXT_ENDINGS else ending
        if output is not None and form not in _PAGE_ENDINGS and not report_formats.find(form):
            known = ", ".join(f".{name}" for name in (*report_formats.names(), PAGE_FORMAT))
            raise UsageError(
                f"{output}: no table is written as '.{ending}'.", f"let it end in one of these: {known}."
            )
    form = PAGE_FORMAT if form in _PAGE_ENDINGS else form
    if form == PAGE_FORMAT and output is None:
        raise UsageError("--format html makes a page, which goes into a file.", "name it: -o report.html")
    chosen = report_formats.find(form)
    if chosen is None and form != PAGE_FORMAT:
        known = [*report_formats.names(), PAGE_FORMAT]
        raise UsageError(f"there is no table format '{form}'.", suggestion(form, known, "Formats"))
    if output == Path("-"):
        raise UsageError("- is no name for a file.", "leave -o out, and the table is printed.")
    if output is not None:
        require_free(output, force=force)
    return chosen


def _hand_out(table: Table, text: str, output: Path | None, *, force: bool, for_people: bool) -> None:
    """Write the text of a table to a file, or print it; `for_people`, a terminal gets it folded."""
    from kdctl.cli.console import echo
    from kdctl.cli.results import show_table, write_result

    if output is not None:
        write_result(output, text, force=force)
    elif for_people:
        show_table(table)
    else:
        echo(text, end="")


def _draw(workspace: Workspace, folder: Path, which: Which, *, force: bool) -> None:
    """Draw what can be drawn, and say what cannot."""
    from kdctl import workflows
    from kdctl.cli.console import say
    from kdctl.text import plural

    drawn = workflows.plot_all(folder, workspace, force=force, **which)
    number = len({file.stem for file in drawn.files})
    say(f"{plural(number, 'figure')} in {folder}, each as SVG, PDF and PNG")
    for mistake in drawn.left_out:
        say(f"left out: {mistake.problem} {mistake.hint}")


def _words(given: list[str] | None) -> list[str]:
    """Return names that were given one by one, or several with commas between."""
    return [word.strip() for text in given or [] for word in text.split(",") if word.strip()]
