"""Records as canonical JSON text, and back.

JSON has no word for infinity and 'not a number', which the losses of a diverging run may be; they
are spelled as strings, and read as floats again wherever a record says that a field is one.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from kdctl.serialization import canonical_json, from_tree, to_tree

Record = TypeVar("Record")


def to_json(record: Any) -> str:
    """Return a record, or a tree, as text: equal content gives equal text."""
    try:
        return canonical_json(record)  # plans are plain trees already, and come in tens of thousands
    except (TypeError, ValueError):
        return canonical_json(_spelled(to_tree(record)))


def from_json(record: type[Record], text: str | bytes) -> Record:
    """Read what `to_json` wrote.

    Raises:
        ValueError: the text is not JSON, or does not describe such a record.
    """
    return from_tree(record, json.loads(text))


def _spelled(tree: Any) -> Any:
    """Write the floats that JSON lacks as 'nan', 'inf' and '-inf'."""
    if isinstance(tree, dict):
        return {name: _spelled(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_spelled(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree
