"""Records as canonical JSON text, and back.

JSON has no word for infinity and 'not a number', which the losses of a diverging run may be; they
are spelled as strings, and read as floats again wherever a record says that a field is one.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

from kdctl.serialization import canonical_json, from_tree, to_tree

Record = TypeVar("Record")

LARGEST_FILE = 2**28
"""Bytes of a file of records: far more than any run or sweep writes."""

_LARGEST = 2**63 - 1
"""Of a whole number that SQLite holds; nothing that kdctl counts comes near."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that alone is no letter, and cannot be written as UTF-8."""


def to_json(record: Any) -> str:
    """Return a record, or a tree, as text: equal content gives equal text."""
    try:
        return canonical_json(record)  # plans are plain trees already, and come in tens of thousands
    except (TypeError, ValueError):
        return canonical_json(_spelled(to_tree(record)))


def from_json(record: type[Record], text: str | bytes) -> Record:
    """Read what `to_json` wrote.

    Raises:
        ValueError: the text is not JSON, does not describe such a record, or holds what `to_json` never
            writes and a database cannot keep: endless nesting, numbers without bounds, half letters.
    """
    content = text.encode() if isinstance(text, str) else text
    try:
        tree = json.loads(content, parse_int=_whole_number)
        if _SURROGATE.search(content):
            canonical_json(_spelled(tree)).encode()
        return from_tree(record, tree)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _whole_number(digits: str) -> int:
    number = int(digits)  # itself refuses thousands of digits
    if abs(number) > _LARGEST:
        raise ValueError(f"{number} is too large a number")
    return number


def _spelled(tree: Any) -> Any:
    """Write the floats that JSON lacks as 'nan', 'inf' and '-inf'."""
    if isinstance(tree, dict):
        return {name: _spelled(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_spelled(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree
