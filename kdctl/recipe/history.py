"""Stored plans of other versions: options that came, went or were renamed in between.

A stored plan says every value, and of each option that came later or was renamed what that means for
plans without it. So plans of different versions can be read, and held against each other without the
plug-ins they name: a report loads no torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from kdctl.recipe.component import Spec, past_of, removed_options
from kdctl.recipe.layers import NAME, look_up
from kdctl.serialization import canonical_json, to_tree

HEADING = "history"
"""Of a stored plan: the part that says what its options were in earlier versions."""

ADDED = "added"
"""Dotted option -> what plans without it did."""

RENAMED = "renamed"
"""Dotted option -> the name it had before."""

Tree = Mapping[str, Any]


def as_declared_now(config: type, table: Tree) -> dict[str, Any]:
    """Turn the options of a stored plan, of any version, into those of today with the same meaning.

    An option that is gone, and had another value than the one that all runs have now, stays in the table; it
    is refused later like any unknown option.
    """
    gone = removed_options(config)
    today = {name: value for name, value in table.items() if name not in gone or value != gone[name]}
    for item in dataclasses.fields(config):
        past = past_of(item)
        if item.name not in today and past.formerly in today:
            today[item.name] = today.pop(past.formerly)
        if item.name not in today and past.since:
            today[item.name] = to_tree(past.before)
    return today


class _Fact(NamedTuple):
    """One entry of a plan's history: what an option was in earlier versions."""

    path: tuple[str, ...]
    names: tuple[str | None, ...]
    """Of the plug-ins whose tables are on the way to the option; None: the table has no name."""
    renamed: bool
    text: str
    """The name it had, or the value that stands for its absence; as JSON."""


def told_by(options: Any, path: str) -> dict[str, dict[str, Any]]:
    """Return what a stored plan tells of the past of its options: `ADDED` and `RENAMED`.

    Args:
        options: a record of options, or the spec of a plug-in with its options.
        path: dotted name of their table in the plan.
    """
    record = options.options if isinstance(options, Spec) else options
    told: dict[str, dict[str, Any]] = {ADDED: {}, RENAMED: {}}
    for item in dataclasses.fields(record):
        past, value, dotted = past_of(item), getattr(record, item.name), f"{path}.{item.name}"
        if past.formerly:
            told[RENAMED][dotted] = past.formerly
        if past.since:
            before = to_tree(past.before)
            told[ADDED][dotted] = {NAME: before} if isinstance(value, Spec) else before
        if isinstance(value, Spec):
            inner = told_by(value, dotted)
            told = {heading: {**entries, **inner[heading]} for heading, entries in told.items()}
    return told


def align(plans: Sequence[dict[str, Any]]) -> None:
    """Bring stored plans into one form, in place, so that equal content looks equal.

    Where a plan lacks an option, it gets the value that stands for its absence; an option under an old name
    gets the new one. Both are known from the histories of all the plans, which are then removed from them.
    """
    known: dict[int, tuple[str, ...]] = {}
    told = {(id(plan[HEADING]), _names(plan, known)): plan for plan in plans if HEADING in plan}
    facts = dict.fromkeys(fact for plan in told.values() for fact in _facts(plan))
    by_plugin: dict[tuple[str, str | None], list[_Fact]] = {}
    for fact in sorted(facts, key=lambda fact: not fact.renamed):  # first: not lacking
        by_plugin.setdefault((fact.path[0], fact.names[0]), []).append(fact)
    sections = dict.fromkeys(section for section, _ in by_plugin)
    seen: set[tuple[str, int]] = set()
    for plan in plans:
        plan.pop(HEADING, None)
        for section in sections:
            if (place := (section, id(plan.get(section)))) in seen:  # plans may have a table in common
                continue
            seen.add(place)
            for fact in by_plugin.get((section, look_up(plan, f"{section}.{NAME}")), []):
                _tell(plan, fact)


def _names(plan: Tree, known: dict[int, tuple[str, ...]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the plug-ins of a plan; plans of the same ones with equal histories tell the same facts.

    Args:
        plan: a stored one.
        known: those of tables that were looked through already; filled.
    """
    tables = {part: value for part, value in plan.items() if isinstance(value, dict) and part != HEADING}
    for table in tables.values():
        if id(table) not in known:
            known[id(table)] = tuple(_names_in(cast(Tree, table)))
    return tuple((part, known[id(table)]) for part, table in tables.items())


def _names_in(table: Tree) -> Iterator[str]:
    for part, value in table.items():
        if part == NAME:
            yield str(value)
        elif isinstance(value, dict):
            yield from (f"{part}.{name}" for name in _names_in(cast(Tree, value)))


def _facts(plan: Tree) -> Iterator[_Fact]:
    for heading in (RENAMED, ADDED):
        for dotted, value in plan[HEADING].get(heading, {}).items():
            path = tuple(dotted.split("."))
            tables = [".".join(path[:depth]) for depth in range(1, len(path))]
            names = tuple(look_up(plan, f"{table}.{NAME}") for table in tables)
            yield _Fact(path=path, names=names, renamed=heading == RENAMED, text=canonical_json(value))


def _tell(plan: dict[str, Any], fact: _Fact) -> None:
    """Write a fact into a plan, if it has the option's table and its plug-ins are the same."""
    table: Any = plan
    for part, name in zip(fact.path[:-1], fact.names, strict=True):
        table = table.get(part)
        if not isinstance(table, dict) or cast(Tree, table).get(NAME) != name:
            return
    option, value = fact.path[-1], json.loads(fact.text)
    if option in table:
        return
    if not fact.renamed:
        table[option] = value
    elif value in table:
        table[option] = table.pop(value)
