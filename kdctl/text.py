"""Text from files and names, made harmless where people or spreadsheets read it."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence

_LINE_BREAKS = "\n\t"

_COMMANDS = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
    "|(?<![^\0-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\0-\x7f])"
)
"""What a terminal obeys instead of showing it: control characters, marks that turn the direction of text, and
letters that nobody sees, by which two names look alike. Joiners are shown between letters of scripts that
need them. Half letters stand for bytes of a file's name that are no text."""

_HALF_LETTERS = re.compile("[\ud800-\udfff]")

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet computes."""

_PLAIN = {
    **{"—": "-", "–": "-", "−": "-", "±": "+/-", "×": "x", "·": ".", "…": "...", "→": "->", "←": "<-"},
    **{"≥": ">=", "≤": "<=", "✓": "yes", "✗": "no", "’": "'", "‘": "'", "“": '"', "”": '"', "²": "2"},
    **{"│": "|", "─": "-", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┼": "+"},
    **{"╭": "+", "╮": "+", "╰": "+", "╯": "+", "━": "-", "╸": "-", "╺": "-"},
}
"""What an encoding without a sign shows in its place."""

REPLACING = "kdctl-replacing"
"""Name of the error handler that prints what an encoding has instead of raising `UnicodeEncodeError`."""


def one_or_several(words: str | Sequence[str]) -> Sequence[str]:
    """Return words as a sequence; a single one stands for itself, not for its letters."""
    return (words,) if isinstance(words, str) else words


def plural(count: int, noun: str, several: str = "") -> str:
    """Word a count: '1 run', '2 runs'; `several` is a plural that does not end in an s alone."""
    return f"{count} {noun}" if count == 1 else f"{count} {several or f'{noun}s'}"


def printable(text: str, *, one_line: bool = False) -> str:
    r"""Return text whose characters are all shown, none obeyed: ESC becomes the four letters \x1b.

    Args:
        text: from a file, a folder's name, a recipe.
        one_line: spell line breaks and tabs, too.
    """
    if text.isprintable():  # as almost all are, of tens of thousands
        return text
    shown = _COMMANDS.sub(_spelled, text)
    return shown.translate({ord(mark): repr(mark)[1:-1] for mark in _LINE_BREAKS}) if one_line else shown


def harmless_json(text: str) -> str:
    r"""Return JSON, or a page with JSON in it, in which nothing is obeyed: ESC becomes \u001b, as in JSON."""
    return _COMMANDS.sub(_as_json_has_it, text)


def as_text(name: str) -> str:
    r"""Return a file's name as text that can be stored: bytes that are no UTF-8 become \xf8 and the like."""
    return _HALF_LETTERS.sub(_spelled, name)


def spreadsheet_cell(value: object) -> object:
    """Return a value as a CSV file may hold it: a quote before text that a spreadsheet would compute."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no text
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _as_json_has_it(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(letter: str) -> str:
    if letter in _PLAIN:
        return _PLAIN[letter]
    if _COMMANDS.match(letter):
        return printable(letter)
    base = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return base or "?"


codecs.register_error(REPLACING, _replaced)
