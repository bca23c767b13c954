"""Tables in a terminal: as wide as they are, or folded where it is too narrow."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kdctl.cli.console import output, print_json, say
from kdctl.cli.options import Format, ListFormat
from kdctl.text import printable, spreadsheet_cell

if TYPE_CHECKING:
    from rich.console import Console


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
