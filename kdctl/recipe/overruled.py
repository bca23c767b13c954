"""Overrides of the command line that change nothing, because a grid or a search decides the field."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdctl.errors import Mistake
from kdctl.recipe.layers import NAME, Tree, flat, look_up, same
from kdctl.recipe.load import OVERRIDES
from kdctl.recipe.sections import SECTIONS
from kdctl.recipe.space import Point


def overruled(
    overrides: Tree, points: Sequence[Point], tree_at: Callable[[Point], Tree], *, space: str, axes: Any
) -> list[Mistake]:
    """Return a mistake for each override that no configuration has.

    Points lie above overrides, so a field that every point sets is lost on all of them. So is an
    option of a method where every point picks another method.

    Args:
        overrides: of the command line: dotted field -> value.
        points: of the grid, or corners of the search.
        tree_at: merges all layers at a point.
        space: 'grid' or 'search.space', which the points are from.
        axes: what the recipe says there.
    """
    mistakes: list[Mistake] = []
    for dotted, value in overrides.items():
        section, word = dotted.partition(".")[0], f"{OVERRIDES} {dotted}={_written(value)}"
        if section not in SECTIONS:
            continue
        if all(_sets(point, dotted) for point in points):
            problem = f"{word} would change nothing: [{space}] sets {dotted} in every configuration."
            mistakes.append(Mistake(problem=problem, hint=_instead(dotted, value, space, axes)))
        elif not any(_has(tree_at(point), dotted, value) for point in points):
            problem = f"{word} would change nothing: [{space}] always picks another {section} after it."
            hint = f"write it beside the name: {section} = [{{ name = '...', option = ... }}] in [{space}]."
            mistakes.append(Mistake(problem=problem, hint=hint))
    return mistakes


def _sets(point: Point, dotted: str) -> bool:
    """Whether a point sets a field; a section's bare value is its name."""
    fields = flat(point.values)
    bare = fields.get(dotted.removesuffix(f".{NAME}"))
    return dotted in fields or f"{dotted}.{NAME}" in fields or isinstance(bare, str)


def _has(tree: Tree, dotted: str, value: Any) -> bool:
    section, _, option = dotted.partition(".")
    choices = tree.get(section)
    if option and isinstance(choices, list):  # of several teachers each has it
        return all(_has({section: choice}, dotted, value) for choice in choices)
    found = look_up(tree, dotted)
    return same(found, value) or same(look_up(tree, f"{dotted}.{NAME}"), value)


def _instead(dotted: str, value: Any, space: str, axes: Any) -> str:
    if isinstance(axes, Mapping) and isinstance(look_up(axes, dotted), list):
        word = shlex.quote(f"{space}.{dotted}=[{_written(value)}]")
        return f"to have this value alone: -o {word}; or take {dotted} out of [{space}]."
    return f"change {dotted} in the recipe's [{space}], or take it out there."


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
