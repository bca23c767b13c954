"""Values as a recipe has them, for messages and for hints that say what to write."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

from kdctl.recipe.sections import SECTIONS

_NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?([eE][+-]?\d+)?", re.ASCII)

_LONGEST_HINT = 200
"""Characters of a value that a hint repeats."""


def in_toml(value: Any) -> str:
    """Return a value as a line of a recipe may have it; text stands in quotes."""
    return json.dumps(value, ensure_ascii=False, default=str)


def as_written(value: Any) -> str:
    """Return a value about as a recipe has it, to be named in a message: true, not True."""
    if isinstance(value, str):
        return repr(value)
    is_plain = isinstance(value, (float, datetime.date, datetime.time))
    return str(value) if is_plain else in_toml(value)


def number_meant(text: str) -> str | None:
    """Return a number as TOML writes it, of text that only looks like one: '.1' is 0.1; None otherwise."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    sign, whole, fraction, exponent = match.groups(default="")
    if not whole and not fraction:
        return None
    return f"{sign}{whole.lstrip('0') or '0'}" + (f".{fraction}" if fraction else "") + exponent


def grid_hint(place: str, value: Any) -> str:
    """Say where several values for one field belong; empty for what is no list."""
    if not isinstance(value, list) or not value or place.partition(".")[0] not in SECTIONS:
        return ""
    line = f"{place} = {in_toml(value)}"
    return f"a run has one {place}; lists belong into [grid]: write {line} there."


def list_hint(place: str, value: Any) -> str:
    """Say how a list is written that came as text or as its only item; empty where that cannot be told."""
    text = value if isinstance(value, str) else in_toml(value)
    section = place.partition(".")[0]
    if isinstance(value, Mapping) or len(text) > _LONGEST_HINT or section == "reported":  # a list of tables
        return ""
    # Quotes that are not within others are taken away by a shell: of ["a", "b"] it leaves [a, b].
    words = (word.strip() for word in text.strip("[] ").split(","))
    line = ", ".join((section != "report" and number_meant(word)) or in_toml(word) for word in words if word)
    return f"write {place} = [{line}]; on the command line in quotes: -o '{place} = [{line}]'."
