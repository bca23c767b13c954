"""Reading plans by dotted field names, and finding the fields that tell configurations apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from kdctl.errors import UsageError, nearest_name

HEADLINE_FIELDS = ("data.name", "teachers", "student.name", "protocol", "method.name")
"""What a table of this field shows first, in this order, whenever it varies."""

_ALIASES = {"lr": "learning_rate", "teacher": "teachers"}
_NOT_SETTINGS = frozenset({"schema", "seed"})
_IDENTITY_ENDINGS = (".run", "sha256", "fingerprint", ".path", "numerics")
"""Fields that say which one it is, not how it was set."""
_VERSION_ENDINGS = ("numerics", "plugin_sha256")
_HASH_LENGTH = 8
_SCALARS = frozenset({str, int, float, bool, type(None)})
"""Types of most values of a plan."""


def flatten(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a plan by dotted name; lists of scalars are leaves, as tuples."""
    leaves: dict[str, Any] = {}
    _collect(plan, "", leaves)
    return leaves


def known_fields(plans: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return every field of the plans, in order of appearance, and 'teachers' for their joint names."""
    flat = _flattened(without_repeats(plans))
    return list(dict.fromkeys(["teachers", *(field for leaves in flat for field in leaves)]))


def without_repeats(plans: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out plans that differ from an earlier one in nothing but their seed.

    It is seen of plans that share their tables, as those of one configuration do that the store reads.
    """
    first: dict[Any, Mapping[str, Any]] = {}
    for plan in plans:
        first.setdefault((tuple(plan), tuple(map(id, {**plan, "seed": None}.values()))), plan)
    return list(first.values())


def read_field(plan: Mapping[str, Any], field: str) -> Any:
    """Return the value at a dotted field; None where the plan has no such field.

    A table with a name is read as its name; a list of them as their names joined by ' + '.
    """
    node: Any = plan
    for part in field.split("."):
        if _is_table(node):
            node = node.get(part)
        elif isinstance(node, (list, tuple)) and part.isdecimal() and int(part) < len(node):
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
    return [field for field in _varying(without_repeats(plans)) if not field.endswith(_IDENTITY_ENDINGS)]


def varying_versions(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields in which plans differ that name a version of the code: kdctl's, or a plug-in's."""
    own = (field for field in _varying(without_repeats(plans)) if not field.startswith("teachers."))
    return [field for field in own if field.endswith(_VERSION_ENDINGS)]


def distinguishing_fields(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fewest fields, headlines and names first, that still tell all configurations apart.

    An option that only follows another (a method's own loss, a protocol's number of epochs) is left
    out; hashes and places are used only when nothing else differs. Of a search, in which each number is
    that of one configuration, all numbers are told: any of them would tell the rows apart, and none is
    their reason.
    """
    columns = _Columns(without_repeats(plans))
    headlines = [field for field in HEADLINE_FIELDS if columns.headline_varies(field)]
    varying = _varying(columns.plans)
    settings = [field for field in varying if not field.endswith(_IDENTITY_ENDINGS)]
    settings.sort(key=lambda field: not field.endswith(".name"))  # which optimizer, before any option of it
    identities = [field for field in varying if field.endswith(_IDENTITY_ENDINGS)]
    configurations = columns.rows(varying)
    chosen = list(headlines)
    num_told_apart = columns.num_distinct(chosen)
    num_headlines = num_told_apart
    for field in ["teachers", *settings, *identities]:
        num_with_field = columns.num_distinct([*chosen, field])
        if num_with_field > num_told_apart or columns.is_searched(field, configurations, num_headlines):
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


def _collect(node: Any, prefix: str, leaves: dict[str, Any]) -> None:
    children = node.items() if _is_table(node) else enumerate(node)
    for name, child in children:
        path = f"{prefix}{name}"
        if name == "model" and prefix.startswith("teachers."):
            continue  # how it is put together: no setting of this run
        if type(child) in _SCALARS:
            leaves[path] = child
        elif _is_table(child) or _is_list_of_tables(child):
            _collect(child, f"{path}.", leaves)
        elif not isinstance(child, (list, tuple)) or child:
            leaves[path] = _as_value(child)


def _is_table(node: Any) -> TypeGuard[Mapping[Any, Any]]:
    """Ask first what is almost always so: to ask for a `Mapping` takes ten times as long."""
    return type(node) is dict or isinstance(node, Mapping)


def _is_list_of_tables(node: Any) -> bool:
    return isinstance(node, (list, tuple)) and bool(node) and _is_table(node[0])


def _as_value(node: Any) -> Any:
    if type(node) in _SCALARS:
        return node
    if _is_table(node):
        return node.get("name")
    if _is_list_of_tables(node):
        return " + ".join(str(item.get("name")) for item in node)
    if isinstance(node, (list, tuple)):
        return tuple(_as_value(item) for item in node) or None
    return node


def _varying(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    flat = _flattened(plans)
    fields = dict.fromkeys(field for leaves in flat for field in leaves if field not in _NOT_SETTINGS)
    return [field for field in fields if len({leaves.get(field) for leaves in flat}) > 1]


def _flattened(plans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the leaves of each plan; tables that several plans of a store have in common are walked once."""
    known: dict[tuple[str, int], dict[str, Any]] = {}
    flat: list[dict[str, Any]] = []
    for plan in plans:
        leaves: dict[str, Any] = {}
        for name, part in plan.items():
            if type(part) in _SCALARS:
                leaves[name] = part
                continue
            key = (name, id(part))
            if key not in known:
                known[key] = flatten({name: part})
            leaves |= known[key]
        flat.append(leaves)
    return flat


class _Columns:
    """The values of fields over plans, each read once."""

    def __init__(self, plans: Sequence[Mapping[str, Any]]) -> None:
        """Read `plans`."""
        self.plans = plans
        self._known: dict[str, list[Any]] = {}

    def headline_varies(self, field: str) -> bool:
        """A run without a teacher (the baseline) does not make the teacher vary."""
        values = set(self._of(field))
        return len(values - {None} if field == "teachers" else values) > 1

    def rows(self, fields: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return the values of each plan."""
        return list(zip(*map(self._of, fields), strict=True)) if fields else [() for _ in self.plans]

    def num_distinct(self, fields: Sequence[str]) -> int:
        """Count the combinations of values."""
        return len(set(self.rows(fields)))

    def is_searched(self, field: str, configurations: Sequence[tuple[Any, ...]], num_headlines: int) -> bool:
        """Say whether each number is that of one configuration, and headlines do not say of which.

        Args:
            field: whose numbers these are.
            configurations: what each plan is, apart from its seed.
            num_headlines: how many rows the headlines tell apart.
        """
        pairs = zip(self._of(field), configurations, strict=True)
        known = {(value, configuration) for value, configuration in pairs if value is not None}
        numbers = {value for value, _ in known if isinstance(value, float)}
        return len(numbers) == len(known) > max(num_headlines, 2)

    def _of(self, field: str) -> list[Any]:
        if field not in self._known:
            self._known[field] = [read_field(plan, field) for plan in self.plans]
        return self._known[field]


def _endings(field: str) -> list[str]:
    """Shortest first; none starts with a list's index."""
    if field == "teachers":
        return ["teacher"]
    parts = field.removesuffix(".name").split(".")
    starts = [start for start in reversed(range(len(parts))) if not parts[start].isdigit()]
    return [".".join(parts[start:]) for start in starts]


def _looks_like_hash(text: str) -> bool:
    return len(text) >= 2 * _HASH_LENGTH and all(letter in "0123456789abcdef" for letter in text)
