"""Layers of a recipe and how they are merged.

    preset < parent recipe < recipe < -o on the command line < a point of the grid < --smoke

A later layer wins, table by table. Two rules make that safe:

- A section that picks something by name (`[method] name = "kd"`) holds the options of that name.
  When a later layer picks another name, the earlier name's options are left out, not carried over.
- `[[when]]` blocks (`is.student.name = [...]`, `set.optimizer.learning_rate = 0.01`) hold values
  that a protocol prescribes for some choices. They stand just above their own file's plain values,
  so that anything explicit in a later layer wins, and are left out with the name that they belong
  to. Their conditions see what the layers say, not the defaults of what they leave out.

Names are compared as they are written, but for case and dashes: `sections.with_canonical_names`
takes aliases out first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from kdctl.errors import Mistake
from kdctl.registry import folded

Tree = Mapping[str, Any]
NAME = "name"

CHOOSERS = {"teacher": (NAME, "run", "checkpoint")}
"""Keys that say which one a section means, where that is more than a name."""


@dataclass(frozen=True, kw_only=True)
class When:
    """Values that hold only for some choices."""

    conditions: Mapping[str, tuple[Any, ...]]
    """Dotted field -> the values for which the block applies; all fields must agree."""
    values: Tree
    """What it sets, as a tree."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One source of values."""

    source: str
    """A file, '-o', 'command line', '... [grid]': named in errors."""
    values: Tree
    whens: tuple[When, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    """Found while it was read; reported together with all others."""
    above_grid: bool = False
    """It wins over points of the grid, and over what teachers say of their own training."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """All layers as one tree."""

    tree: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict[str, str])
    """Dotted field -> the source that set it last."""

    def origin(self, dotted: str) -> str | None:
        """Return the source of a field, or of the nearest table around it; None: no layer has either."""
        while dotted:
            if dotted in self.origins:
                return self.origins[dotted]
            dotted = dotted.rpartition(".")[0]
        return None


def merge(layers: Sequence[Layer]) -> Merged:
    """Merge layers, lowest first."""
    plain = _overlay(layers)
    names = _chosen_names(plain.tree)
    in_force: dict[str, str] = {}
    chosen_by_whens: dict[str, str] = {}
    kept: list[Layer] = []
    for layer in layers:
        own = _chosen_names(layer.values)
        in_force.update(own)
        chosen_by_whens = {key: name for key, name in chosen_by_whens.items() if key not in own}
        stale = {key for key, name in in_force.items() if folded(name) != folded(names.get(key, name))}
        kept.append(
            Layer(source=layer.source, values={k: v for k, v in layer.values.items() if k not in stale})
        )
        for when in layer.whens:
            if holds(when, plain.tree):
                values = _without_others(when, stale)
                kept.append(
                    Layer(source=layer.source, values=_with_names(values, {**names, **chosen_by_whens}))
                )
                chosen_by_whens.update(_chosen_names(values))
    return _overlay(kept)


def look_up(tree: Tree, dotted: str) -> Any:
    """Return the value at a dotted field; None where there is none.

    A section given as a bare string is its name: `student = "resnet8"` has `student.name`.
    """
    value: Any = tree
    for part in dotted.split("."):
        if isinstance(value, str) and part == NAME:
            return value
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[int(part)] if part.isdecimal() and int(part) < len(value) else None
            continue
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def nested(flat_tree: Tree) -> dict[str, Any]:
    """Turn {'a.b': 1} into {'a': {'b': 1}}; later fields win over earlier ones, as layers do."""
    merged = Merged(tree={})
    for dotted, value in flat_tree.items():
        *tables, leaf = dotted.split(".")
        tree: dict[str, Any] = {leaf: value}
        for table in reversed(tables):
            tree = {table: tree}
        _merge_into(merged.tree, tree, "", merged.origins, "")
    return merged.tree


def flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Turn {'a': {'b': 1}} into {'a.b': 1}."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def same(left: Any, right: Any) -> bool:
    """Compare values as recipes mean them: names without case and dashes, 4 equal to 4.0, nan to itself."""
    if isinstance(left, str) and isinstance(right, str):
        return folded(left) == folded(right)
    return left == right or (left != left and right != right)  # noqa: PLR0124 - only nan is not itself


def _overlay(layers: Iterable[Layer]) -> Merged:
    merged = Merged(tree={})
    for layer in layers:
        _merge_into(merged.tree, layer.values, layer.source, merged.origins, "")
    return merged


def _merge_into(base: dict[str, Any], top: Tree, source: str, origins: dict[str, str], prefix: str) -> None:
    for key, value in top.items():
        dotted = f"{prefix}{key}"
        origins[dotted] = source
        old = base.get(key)
        table = {NAME: value} if isinstance(value, str) and isinstance(old, dict) else value
        if isinstance(table, Mapping) and isinstance(old, list) and old and _chooses_nothing(table, dotted):
            base[key] = [_overlaid(each, table, source, dotted) for each in old]
            continue
        if not isinstance(table, Mapping):
            base[key] = table
            continue
        old_table: Any = {NAME: old} if isinstance(old, str) else old
        keeps = isinstance(old_table, dict) and _same_choice(old_table, table, dotted)
        fresh: dict[str, Any] = dict(old_table) if keeps else {}
        _merge_into(fresh, table, source, origins, f"{dotted}.")
        base[key] = fresh


def _chooses_nothing(table: Tree, dotted: str) -> bool:
    """Whether a table only has options of a section of several choices: they hold for each of these."""
    return dotted in CHOOSERS and not any(key in table for key in CHOOSERS[dotted])


def _overlaid(choice: Any, options: Tree, source: str, dotted: str) -> Any:
    """Return one of a list of choices with options on top."""
    base = {dotted: {NAME: choice} if isinstance(choice, str) else choice}
    _merge_into(base, {dotted: options}, source, {}, "")
    return base[dotted]


def _same_choice(old: Tree, new: Tree, dotted: str) -> bool:
    """Whether `new` goes on with what `old` has chosen, so that its options stay."""
    choosers = CHOOSERS.get(dotted, (NAME,))
    before, now = ({key: tree[key] for key in choosers if key in tree} for tree in (old, new))
    if not before or not now:
        return True
    return before.keys() == now.keys() and all(same(before[key], now[key]) for key in now)


def _chosen_names(tree: Tree) -> dict[str, str]:
    """Return what each section of a tree picks by name."""
    names: dict[str, str] = {}
    for key in tree:
        name = look_up(tree, f"{key}.{NAME}")
        if isinstance(name, str) and key != NAME and isinstance(tree[key], (str, Mapping)):
            names[key] = name
    return names


def _without_others(when: When, stale: Set[str]) -> dict[str, Any]:
    """Leave out of a when-block what it says of names that later layers replaced.

    A rate beside a condition on the student is one for the optimizer that its file names, or those below. A
    block whose conditions or tables name the choice themselves means just that one.
    """
    return {
        key: value
        for key, value in when.values.items()
        if key not in stale
        or f"{key}.{NAME}" in when.conditions
        or not isinstance(value, Mapping)
        or NAME in value
    }


def _with_names(values: Tree, names: Mapping[str, str]) -> dict[str, Any]:
    """Say in a when-block's tables which choice they belong to, so that they survive the merge."""
    return {
        key: {NAME: names[key], **value} if isinstance(value, Mapping) and key in names else value
        for key, value in values.items()
    }


def holds(when: When, tree: Tree) -> bool:
    """Return whether a block applies to the values of a tree."""
    return all(
        any(same(look_up(tree, dotted), value) for value in values)
        for dotted, values in when.conditions.items()
    )
