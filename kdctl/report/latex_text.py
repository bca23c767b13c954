"""Text of others as LaTeX prints it, never as a command."""

from __future__ import annotations

import re

from kdctl.text import printable

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # after a line's end they would mean something
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "α": r"$\alpha$",
    "—": "--",
    "–": "--",
    "…": r"\dots{}",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"$^\S$",
    "²": "$^2$",
    "\n": " ",
    **dict(
        zip("ÐðĐđĄąĘęĦħĮįĸĿŀŊŋŦŧŲųſ", "DdDdAaEeHhIikLlNnTtUus", strict=True)
    ),  # not in pdflatex's first fonts
    **{"Þ": "Th", "þ": "th", "ŉ": "'n"},
}

_BREAKS = re.compile(r"(?:\d{1,10}(?:\.\d{1,10})?(?:e[+-]?\d{1,3})?|[^\W_]{1,10})[\W_]*|[\W_]+")
"""Where a line of a narrow column may end: behind a number or some letters, with the signs after them."""


def escaped(text: str) -> str:
    """Return text as LaTeX prints it; a sign that pdflatex has no glyph for becomes a question mark."""
    return re.sub(r"[^\w\s.,;:()/=+!?'@-]|[_ÐðÞþ]|[^\x00-\xff]|\n", _sign, printable(text))


def _sign(match: re.Match[str]) -> str:
    sign = match[0]
    return _SPECIAL.get(sign) or (sign if sign.isascii() or (sign.isalpha() and ord(sign) < 0x180) else "?")


def breakable(text: str) -> str:
    """Return text for a narrow column: a line may end behind any sign, and in a word that is too long."""
    parts = _BREAKS.findall(text)
    return "".join(escaped(part) + _break_behind(part) for part in parts[:-1]) + escaped("".join(parts[-1:]))


def _break_behind(part: str) -> str:
    return r"\penalty500{}" if part[-1].isalnum() else r"\allowbreak{}"
