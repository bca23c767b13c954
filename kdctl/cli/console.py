"""The two streams: results on stdout, everything else on stderr."""

from __future__ import annotations

import csv
import functools
import json
import logging
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from kdctl.cli.options import Format, ListFormat
from kdctl.cli.standard_streams import write_nowhere
from kdctl.errors import Mistake
from kdctl.text import printable, spreadsheet_cell

if TYPE_CHECKING:
    from rich.console import Console

JSON_SCHEMA = 1
"""Version of what `--format json` prints."""

UNFOLDED = 100_000
"""Columns where the output is no terminal: a file should not have its lines folded."""


def echo(text: str, *, end: str = "\n") -> None:
    """Print text on stdout as it stands, but for what a terminal would obey."""
    sys.stdout.write(printable(text) + end)
    sys.stdout.flush()


def output() -> Console:
    """Return the console of results."""
    width = None if sys.stdout.isatty() else UNFOLDED
    return _console()(width=width, soft_wrap=True, highlight=False)


@functools.cache
def messages() -> Console:
    """Return the console of progress, notes and errors: one, so that lines appear above the bars."""
    width = None if sys.stderr.isatty() else UNFOLDED
    return _console()(stderr=True, width=width, soft_wrap=True, highlight=False)


@functools.cache
def _console() -> type[Console]:
    """Return a console that obeys nothing in what it is given: control characters are shown, not sent.

    Messages that cannot be written are lost: nobody may read them any more, as behind `2>&1 | head` and after
    a terminal was closed, and no run should end for that.
    """
    from rich.console import Console
    from rich.segment import Segment

    class HarmlessConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the application knows what to do

        def _write_buffer(self) -> None:
            try:
                super()._write_buffer()
            except (OSError, ValueError):  # a stream that was closed raises ValueError
                if not self.stderr:
                    raise
                del self._buffer[:]
                write_nowhere(self.file)

        def _render_buffer(self, buffer: Iterable[Segment]) -> str:
            return super()._render_buffer(
                segment if segment.control else Segment(printable(segment.text), segment.style)
                for segment in buffer
            )

    return HarmlessConsole


def say(text: str) -> None:
    """Print a line on stderr."""
    messages().print(text, markup=False)


def say_notes(notes: Iterable[str], *, warnings_only: bool) -> None:
    """Print on stderr the notes about a plan, or only those that warn."""
    for line in notes:
        if line.startswith("warning: ") or not warnings_only:
            say(line)


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
    if _maybe_print_unfolded(headings, cells, console):
        return
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
    cells = [list(row) for row in rows]
    if not _maybe_print_unfolded(headings, cells, console):
        told = [[printable(cell, one_line=True) for cell in row] for row in cells]
        _print_folded(headings, narrowest, told, console)


def _maybe_print_unfolded(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> bool:
    """Print headings and rows as they are, if the console is wide enough; return whether it is.

    A table of rich takes ten seconds for ten thousand rows, and so it goes by columns.
    """
    from rich.cells import cell_len
    from rich.text import Text

    columns: list[list[str]] = []
    room = console.width + 2
    for place, heading in enumerate(headings):
        column = [heading.removeprefix(">"), *(printable(row[place], one_line=True) for row in rows)]
        lengths = [len(cell) if cell.isascii() else cell_len(cell) for cell in column]
        width = max(lengths)
        room -= width + 2
        if room < 0:
            return False
        blanks = [" " * (width - length) for length in lengths]
        padded = (
            zip(blanks, column, strict=True) if heading.startswith(">") else zip(column, blanks, strict=True)
        )
        columns.append(list(map("".join, padded)))
    first, *lines = ("  ".join(row).rstrip() for row in zip(*columns, strict=True))
    console.print(Text(first, style="bold"), overflow="ignore", no_wrap=True)
    if lines and console.stderr:
        console.out("\n".join(lines), highlight=False)
    elif lines:  # results: no bars are drawn there, and rich looks at each line again
        console.file.write("\n".join(lines) + "\n")
    return True


def _print_folded(
    headings: Sequence[str], narrowest: Sequence[int], rows: Iterable[Sequence[str]], console: Console
) -> None:
    """Print a table whose cells are folded between words."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, width in zip(headings, narrowest, strict=True):
        right = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"), justify="right" if right else "left", no_wrap=right, min_width=width
        )
    for row in rows:
        table.add_row(*map(Text, row))
    for segments in console.render_lines(table, pad=False):
        line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
        line.rstrip()  # rich fills the last column up with blanks
        console.print(line, overflow="ignore", no_wrap=True)


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
        writer.writerows([spreadsheet_cell(_csv_value(value)) for value in row.values()] for row in rows)
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
    is_number = all(value is None or isinstance(value, (int, float)) for value in values)
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
        console.out(printable(line, one_line=True), highlight=False)


def print_mistakes(mistakes: Iterable[Mistake]) -> None:
    """Print problems with what to do about each, the first of very many; what hints share comes once."""
    console = messages()
    told = list(mistakes)
    rest = [(mistake.problem, *_parted(mistake.hint)) for mistake in told[:_MOST_MISTAKES]]
    while rest:
        problem, own, names = rest.pop(0)
        console.print("[bold red]error:[/] ", end="")
        console.print(problem, markup=False)
        if rest and rest[0][1:] == (own, names):
            continue
        shared = any(names == later for _, _, later in rest)
        hint = own if shared else " ".join(part for part in (own, names) if part)
        if hint:
            console.print("[bold cyan]hint:[/] ", end="")
            console.print(hint, markup=False)
    if len(told) > _MOST_MISTAKES:
        say(f"and {len(told) - _MOST_MISTAKES:,} more.")


_MOST_MISTAKES = 50
"""More fill screens, and take longer to word than to find."""

_NAMES = re.compile(r"[A-Z]\w*s: [^?]+\.$")
"""What a hint ends with that lists all names: 'Sections: data, engine, ....'"""


def _parted(hint: str) -> tuple[str, str]:
    """Return what a hint says of its own, and the list of names it ends with, if it does."""
    names = _NAMES.search(hint)
    return (hint[: names.start()].strip(), names[0]) if names else (hint, "")


class ShownWarnings(logging.Handler):
    """Shows what kdctl's rooms log (a download, a slow file system) between progress lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record on stderr."""
        say(f"note: {record.getMessage()}")
