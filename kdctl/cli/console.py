"""The two streams: results on stdout, everything else on stderr."""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from kdctl.cli.standard_streams import write_nowhere
from kdctl.errors import Mistake
from kdctl.text import printable

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


def say_at_terminal(text: str) -> None:
    """Print on stderr a line about what takes a while, where somebody waits for it."""
    if sys.stderr.isatty():
        say(text)


def say_notes(notes: Iterable[str], *, warnings_only: bool) -> None:
    """Print on stderr the notes about a plan, or only those that warn."""
    for line in notes:
        if line.startswith("warning: ") or not warnings_only:
            say(line)


def print_json(**content: Any) -> None:
    """Print one JSON object on stdout, with the version of its form."""
    typer.echo(json.dumps({"schema": JSON_SCHEMA, **content}))


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
