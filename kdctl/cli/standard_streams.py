"""What the standard streams take, and how wide they are: nothing that is said there should end a run."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import IO

from kdctl.text import REPLACING

_SENTENCE = f"{'a word ' * 20}... \N{PLUS-MINUS SIGN} \N{LATIN SMALL LETTER U WITH DIAERESIS}\n"
"""Has what encodings of names refuse: its length, two full stops in a row, letters that ASCII lacks."""

_WIDTH_DIGITS = 4
"""Of the widest terminal that is believed."""


def open_closed_streams() -> None:
    """Give streams that are closed, as some start a program in the background (`>&-`), the null device.

    Without it files that are opened later, the database among them, would get their numbers, and with these
    what libraries write to stderr.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def replace_what_encodings_lack() -> None:
    """Make both streams print something for every letter: a run should not end for a name or a ±."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACING)
            if not _takes_any_text(stream.encoding):
                stream.reconfigure(encoding="utf-8")


def _takes_any_text(encoding: str) -> bool:
    """Return whether an encoding is one for text: 'idna', that of host names, raises for whole sentences."""
    try:
        _SENTENCE.encode(encoding, REPLACING)
    except (LookupError, ValueError):
        return False
    return True


def write_nowhere(stream: IO[str]) -> None:
    """Let a stream that nobody reads take what is still kept for it, and all that comes."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def bound_width() -> None:
    """Read a width of five digits in $COLUMNS as 9999: frames a thousand million wide fill the memory.

    A width of 0, which some terminals say that know none, is left out.
    """
    said = os.environ.get("COLUMNS", "")
    if said and not said.strip("0"):
        del os.environ["COLUMNS"]
    elif said.isdecimal() and len(said) > _WIDTH_DIGITS:
        os.environ["COLUMNS"] = "9" * _WIDTH_DIGITS
