"""Records as trees of plain dicts, lists and scalars, and trees as text that is equal for equal content."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Record = TypeVar("Record")

_PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types that are their own tree; a subclass, such as a text with a name, is looked at."""


def to_tree(record: Any) -> Any:
    """Turn a record into plain dicts, lists and scalars, ready for JSON."""
    kind = type(record)
    if kind in _PLAIN:
        return record
    names = _field_names(kind)
    if names is not None:
        return {name: to_tree(getattr(record, name)) for name in names}
    if isinstance(record, Mapping):
        return {str(key): to_tree(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_tree(value) for value in record]
    return record.value if isinstance(record, enum.Enum) else record


def values_of(record: Any, kind: type) -> dict[str, Any]:
    """Return the values that a record has of the fields of `kind`, of which it is one."""
    return {item.name: getattr(record, item.name) for item in dataclasses.fields(kind)}


def from_tree(record: type[Record], tree: Any) -> Record:
    """Turn what `to_tree` made (also after a trip through JSON) back into a record.

    Raises:
        ValueError: the tree does not describe such a record.
    """
    return _adapter(record).validate_python(tree)


def canonical_json(tree: Any) -> str:
    """Write a tree so that equal content gives equal text (sorted keys, no white space)."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@functools.cache
def _field_names(kind: type) -> tuple[str, ...] | None:
    """Return the names of a dataclass's fields; None for another type. Sweeps have thousands of members."""
    return tuple(item.name for item in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


@functools.cache
def _adapter(record: type[Record]) -> TypeAdapter[Record]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - `kdctl --help` stays quick without it

    return TypeAdapter(record)
