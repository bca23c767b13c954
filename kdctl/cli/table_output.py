"""Tables of results on stdout."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdctl.report.table_format import Table


def show_table(table: Table) -> None:
    """Print a table as Markdown; a terminal that is too narrow gets it folded."""
    from kdctl.cli.console import echo
    from kdctl.report.formats.markdown import markdown, markdown_within

    if sys.stdout.isatty():
        echo(markdown_within(table, shutil.get_terminal_size().columns), end="")
    else:
        echo(markdown(table), end="")
