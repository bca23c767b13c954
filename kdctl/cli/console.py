"""The two streams: results on stdout, everything else on stderr."""

from __future__ import annotations

import csv
import functools
import json
import logging
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from kdctl.cli.options import Format, ListFormat
from kdctl.errors import Mistake

if TYPE_CHECKING:
    from rich.console import Console

JSON_SCHEMA = 1
"""Version of what `--format json` prints."""

UNFOLDED = 100_000
"""Columns where the output is no terminal: a file should not have its lines folded."""


def output() -> Console:
    """Return the console of results."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else UNFOLDED
    return Console(width=width, soft_wrap=True, highlight=False)


@functools.cache
def messages() -> Console:
    """Return the console of progress, notes and errors: one, so that lines appear above the bars."""
    from rich.console import Console

    width = None if sys.stderr.isatty() else UNFOLDED
    return Console(stderr=True, width=width, soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Print a line on stderr."""
    messages().print(text, markup=False)


def print_json(**content: Any) -> None:
    """Print one JSON object on stdout, with the version of its form."""
    typer.echo(json.dumps({"schema": JSON_SCHEMA, **content}))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, to: Console | None = None) -> None:
    """Print a table without lines, on stdout if not told otherwise; '>' before a heading aligns it right.

    In a terminal that is too narrow cells are folded between words; where that does not do, columns stand
    below each other, each time beside the first one.
    """
    console = to or output()
    cells = [list(row) for row in rows]
    narrowest = [_narrowest(heading, [row[place] for row in cells]) for place, heading in enumerate(headings)]
    for number, part in enumerate(_parts(narrowest, console.width)):
        if number:
            console.out("")
        _print_columns(
            [headings[place] for place in part],
            [narrowest[place] for place in part],
            [[row[place] for place in part] for row in cells],
            console,
        )


def _print_columns(
    headings: Sequence[str], narrowest: Sequence[int], rows: Iterable[Sequence[str]], console: Console
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, width in zip(headings, narrowest, strict=True):
        right = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"), justify="right" if right else "left", no_wrap=right, min_width=width
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():  # rich fills the last column up with blanks
        console.out(line.rstrip(), highlight=False)


def _narrowest(heading: str, cells: Sequence[str]) -> int:
    """Return how wide a column is at least: as its longest word, or as a whole cell if it stands right."""
    if heading.startswith(">"):
        return max(map(len, [heading.removeprefix(">"), *cells]))
    words = [word for text in (heading, *cells) for word in text.split()]
    return max(map(len, words), default=0)


def _parts(narrowest: Sequence[int], width: int) -> list[list[int]]:
    """Return which columns are printed beside each other; the first one is part of each."""
    parts: list[list[int]] = [[0]]
    for place in range(1, len(narrowest)):
        taken = [*parts[-1], place]
        if len(parts[-1]) > 1 and sum(narrowest[item] + 2 for item in taken) - 2 > width:
            parts.append([0, place])
        else:
            parts[-1] = taken
    return parts


def show_rows(
    rows: Sequence[dict[str, Any]], form: Format | ListFormat, *, empty: str = "nothing yet"
) -> None:
    """Print rows on stdout; that there are none is said on stderr."""
    if form.value == Format.JSON.value:
        print_json(rows=list(rows))
    elif not rows:
        say(empty)
    elif form is ListFormat.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_csv_value(value) for value in row.values()] for row in rows)
    else:
        headings = [_heading(name, [row[name] for row in rows]) for name in rows[0]]
        print_table(headings, [[cell(value) for value in row.values()] for row in rows])


def cell(value: Any) -> str:
    """Word a value for people; a dash where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "—"
    if value is None:
        return "—"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _csv_value(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _heading(name: str, values: Sequence[Any]) -> str:
    """Return the heading of a column; those of numbers are aligned right."""
    is_number = all(isinstance(value, int | float | None) for value in values)
    return (">" if is_number else "") + name.replace("_", " ")


def print_wrapped(text: str, *, indent: int = 0) -> None:
    """Print a line on stdout; a terminal that is too narrow gets it folded between words.

    Args:
        text: one line, without markup.
        indent: column that the folded lines begin in.
    """
    console = output()
    width = console.width if console.is_terminal else UNFOLDED
    lines = textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    for line in lines or [""]:
        console.out(line, highlight=False)


def print_mistakes(mistakes: Iterable[Mistake]) -> None:
    """Print problems with what to do about each; a hint that several share comes once, after the last."""
    console = messages()
    rest = list(mistakes)
    while rest:
        mistake = rest.pop(0)
        console.print("[bold red]error:[/] ", end="")
        console.print(mistake.problem, markup=False)
        if not rest or rest[0].hint != mistake.hint:
            console.print("[bold cyan]hint:[/] ", end="")
            console.print(mistake.hint, markup=False)


class ShownWarnings(logging.Handler):
    """Shows what kdctl's rooms log (a download, a slow file system) between progress lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record on stderr."""
        say(f"note: {record.getMessage()}")
