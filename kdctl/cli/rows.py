"""Rows of named values, as a table for people, JSON or CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Any

from kdctl.cli.options import Format, ListFormat


def show_rows(
    rows: Sequence[dict[str, Any]], form: Format | ListFormat, *, empty: str = "nothing yet"
) -> None:
    """Print rows on stdout; that there are none is said on stderr."""
    from kdctl.cli.console import print_json, print_table, say

    if form.value == Format.JSON.value:
        print_json(rows=list(rows))
    elif not rows:
        say(empty)
    elif form is ListFormat.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_plain(value) for value in row.values()] for row in rows)
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


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _heading(name: str, values: Sequence[Any]) -> str:
    """Return the heading of a column; those of numbers are aligned right."""
    is_number = all(isinstance(value, int | float | None) for value in values)
    return (">" if is_number else "") + name.replace("_", " ")
