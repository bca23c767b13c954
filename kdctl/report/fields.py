"""Reading plans by dotted field names, and finding the fields that tell configurations apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdctl.errors import UsageError, nearest_name

HEADLINE_FIELDS = ("data.name", "teachers", "student.name", "protocol", "method.name")
"""What a table of this field shows first, in this order, whenever it varies."""

_ALIASES = {"lr": "learning_rate", "teacher": "teachers"}
_NOT_SETTINGS = frozenset({"schema", "seed"})
_IDENTITY_ENDINGS = (".run", "sha256", "fingerprint", ".path", "numerics")
"""Fields that say which one it is, not how it was set."""
_HASH_LENGTH = 8
_SCALARS = frozenset({str, int, float, bool, type(None)})
"""Types of most values of a plan. To ask for a `Mapping` takes ten times as long, of thousands of plans."""


def flatten(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a plan by dotted name; lists of scalars are leaves, as tuples."""
    return dict(_leaves(plan, ""))


def known_fields(plans: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return every field of the plans, in order of appearance, and 'teachers' for their joint names."""
    return list(dict.fromkeys(["teachers", *(field for plan in plans for field in flatten(plan))]))


def read_field(plan: Mapping[str, Any], field: str) -> Any:
    """Return the value at a dotted field; None where the plan has no such field.

    A table with a name is read as its name; a list of them as their names joined by ' + '.
    """
    node: Any = plan
    for part in field.split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return _as_value(node)


def resolve_field(name: str, known: Sequence[str]) -> str:
    """Return the field among `known` that `name` means: itself, or the one that ends with it.

    'method' means 'method.name', 'lr' means 'optimizer.learning_rate', 'teacher' all teachers' names.

    Raises:
        UsageError: no field, or more than one, has that name.
    """
    wanted = _ALIASES.get(name, name)
    for exact in (wanted, f"{wanted}.name"):
        if exact in known:
            return exact
    matches = [field for field in known if f".{field}".endswith((f".{wanted}", f".{wanted}.name"))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"the field '{name}' could be {' or '.join(matches)}.", "write it in full.")
    shorts = list(short_names(known).values())
    near = nearest_name(name, [*known, *shorts, *_ALIASES])
    listing = f"Fields: {', '.join(sorted(set(shorts)))}."
    raise UsageError(
        f"no run has a field '{name}'.", f"did you mean '{near}'? {listing}" if near else listing
    )


def varying_fields(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields whose value differs between plans; seeds, hashes and places do not count."""
    return [field for field in _varying(plans) if not field.endswith(_IDENTITY_ENDINGS)]


def distinguishing_fields(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fewest fields, headlines first, that still tell all configurations apart.

    An option that only follows another (a method's own loss, a protocol's number of epochs) is left
    out; hashes and places are used only when nothing else differs. Of a search, in which each number comes
    once, all numbers are told: any of them would tell the rows apart, and none is their reason.
    """
    headlines = [field for field in HEADLINE_FIELDS if _headline_varies(field, plans)]
    varying = _varying(plans)
    settings = [field for field in varying if not field.endswith(_IDENTITY_ENDINGS)]
    identities = [field for field in varying if field.endswith(_IDENTITY_ENDINGS)]
    chosen = list(headlines)
    num_told_apart = _num_distinct(plans, chosen)
    for field in ["teachers", *settings, *identities]:
        num_with_field = _num_distinct(plans, [*chosen, field])
        if num_with_field > num_told_apart or _is_searched(field, plans, headlines):
            chosen.append(field)
            num_told_apart = num_with_field
    return chosen


def short_names(fields: Sequence[str], *, taken: Iterable[str] = ()) -> dict[str, str]:
    """Return the shortest unambiguous name of each field: 'optimizer.learning_rate' -> 'learning_rate'.

    Args:
        fields: dotted names.
        taken: names that mean something else where these are shown.
    """
    endings = {field: _endings(field) for field in fields}
    uses = Counter(ending for field in fields for ending in set(endings[field]))
    blocked = frozenset(taken)
    return {
        field: next(
            (ending for ending in endings[field] if uses[ending] == 1 and ending not in blocked), field
        )
        for field in fields
    }


def show_value(value: Any) -> str:
    """Word a value for a cell."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(show_value(item) for item in value)
    text = str(value)
    return text[:_HASH_LENGTH] if _looks_like_hash(text) else text


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    children = node.items() if isinstance(node, Mapping) else enumerate(node)
    for name, child in children:
        path = f"{prefix}{name}"
        if name == "model" and prefix.startswith("teachers."):
            continue  # how it is put together: no setting of this run
        if type(child) in _SCALARS:
            yield path, child
        elif isinstance(child, Mapping) or _is_list_of_tables(child):
            yield from _leaves(child, f"{path}.")
        elif not isinstance(child, (list, tuple)) or child:
            yield path, _as_value(child)


def _is_list_of_tables(node: Any) -> bool:
    return isinstance(node, (list, tuple)) and bool(node) and isinstance(node[0], Mapping)


def _as_value(node: Any) -> Any:
    if type(node) in _SCALARS:
        return node
    if isinstance(node, Mapping):
        return node.get("name")
    if _is_list_of_tables(node):
        return " + ".join(str(item.get("name")) for item in node)
    if isinstance(node, (list, tuple)):
        return tuple(_as_value(item) for item in node) or None
    return node


def _varying(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    flat = [flatten(plan) for plan in plans]
    fields = dict.fromkeys(field for leaves in flat for field in leaves if field not in _NOT_SETTINGS)
    return [field for field in fields if len({leaves.get(field) for leaves in flat}) > 1]


def _headline_varies(field: str, plans: Sequence[Mapping[str, Any]]) -> bool:
    """A run without a teacher (the baseline) does not make the teacher vary."""
    values = {read_field(plan, field) for plan in plans}
    return len(values - {None} if field == "teachers" else values) > 1


def _is_searched(field: str, plans: Sequence[Mapping[str, Any]], headlines: Sequence[str]) -> bool:
    """Say whether a number is another one in each configuration that has it, whatever the headlines say."""
    values = [value for plan in plans if (value := read_field(plan, field)) is not None]
    numbers = {value for value in values if isinstance(value, float)}
    return len(numbers) == len(values) > max(_num_distinct(plans, headlines), 2)


def _num_distinct(plans: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> int:
    return len({tuple(read_field(plan, field) for field in fields) for plan in plans})


def _endings(field: str) -> list[str]:
    """Shortest first; none starts with a list's index."""
    if field == "teachers":
        return ["teacher"]
    parts = field.removesuffix(".name").split(".")
    starts = [start for start in reversed(range(len(parts))) if not parts[start].isdigit()]
    return [".".join(parts[start:]) for start in starts]


def _looks_like_hash(text: str) -> bool:
    return len(text) >= 2 * _HASH_LENGTH and all(letter in "0123456789abcdef" for letter in text)
