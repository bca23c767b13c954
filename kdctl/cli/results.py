"""Results on stdout as tables, or in a file: written whole, and over another one only when that was asked."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdctl.errors import KdctlError
from kdctl.machine_errors import refusal

if TYPE_CHECKING:
    from kdctl.report.table_format import Table


def write_result(path: Path, content: str | bytes, *, force: bool) -> None:
    """Write a result to `path`, and say so on stderr.

    Raises:
        KdctlError: the file is there and `force` was not given, or it cannot be written.
    """
    from kdctl.cli.console import say

    require_free(path, force=force)
    write_whole(path, content)
    say(f"written: {path}")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, over one that is there; if that fails, nothing has changed.

    A link, a device or a named pipe stays what it is, and takes what is written.

    Raises:
        KdctlError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_bytes(data)
            return
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        hint = refusal(error, named=[str(path.parent)]).hint
        raise KdctlError(f"{path} cannot be written ({error.strerror}).", hint) from error


def require_free(path: Path, *, force: bool) -> None:
    """Raise before the work if a result could not be written in the end.

    Raises:
        KdctlError: there is such a file, and `force` was not given; or there is no such folder.
    """
    if path.is_dir():
        raise KdctlError(f"{path} is a folder.", "name a file in it.")
    if path.is_file() and not force:
        raise KdctlError(f"{path} is there already.", "name another file, or write over it with --force.")
    if not path.parent.is_dir():
        raise KdctlError(f"there is no folder {path.parent}.", "make it first, or name another file.")


def show_table(table: Table) -> None:
    """Print a table as Markdown; a terminal that is too narrow gets it folded."""
    from kdctl.cli.console import echo
    from kdctl.report.formats.markdown import markdown, markdown_within

    if sys.stdout.isatty():
        echo(markdown_within(table, shutil.get_terminal_size().columns), end="")
    else:
        echo(markdown(table), end="")
