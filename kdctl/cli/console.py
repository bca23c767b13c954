"""The two streams: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kdctl.errors import KdctlError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 200
"""Columns where the output is no terminal: files should not have their tables folded."""


def output() -> Console:
    """Return the console of results."""
    from rich.console import Console

    return Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=WIDE, soft_wrap=True)


def messages() -> Console:
    """Return the console of progress, notes and errors."""
    from rich.console import Console

    return Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=WIDE)


def plain_table(*headings: str) -> Table:
    """Return a table without lines; headings that start with '>' are right-aligned."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(heading.removeprefix(">"), justify="right" if right else "left", no_wrap=right)
    return table


def print_error(error: KdctlError) -> None:
    """Print every mistake of an error with its hint."""
    console = messages()
    for mistake in error.mistakes:
        console.print("[bold red]error:[/] ", end="")
        console.print(mistake.problem, markup=False, highlight=False, soft_wrap=True)
        console.print("[bold cyan]hint:[/] ", end="")
        console.print(mistake.hint, markup=False, highlight=False, soft_wrap=True)
