"""Mistakes of layers: headings that no recipe has, and overrides that a grid or a search makes void."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdctl.errors import Mistake, nearest_name, suggestion
from kdctl.recipe.layers import NAME, Layer, Tree, When, flat, holds, look_up, same
from kdctl.recipe.load import OVERRIDES
from kdctl.recipe.sections import HEADINGS, SECTIONS, Catalog, default_name, fields_called
from kdctl.recipe.space import Point
from kdctl.recipe.values_in_toml import in_toml


def unknown_headings(layer: Layer, catalog: Catalog) -> Iterator[Mistake]:
    """Yield a mistake for each key of a layer that a recipe does not have."""
    known = (*SECTIONS, *HEADINGS)
    fields = flat(layer.values) if layer.source == OVERRIDES else layer.values
    for dotted, value in fields.items():
        heading = dotted.partition(".")[0]
        if heading in known:
            continue
        word = f" {dotted}={in_toml(value)}" if layer.source == OVERRIDES else ""
        found = fields_called(heading, catalog)
        yield Mistake(
            problem=f"{layer.source}{word}: a recipe has no '{heading}'.",
            hint=f"write {' or '.join(found)}." if found else suggestion(heading, known, "Sections"),
        )


def misnamed_sections(layers: Iterable[Layer]) -> set[str]:
    """Return the sections that layers seem to mean under names that no recipe has.

    That such a section lacks something would be a second mistake about the same word.
    """
    known = (*SECTIONS, *HEADINGS)
    keys = {key for layer in layers for key in layer.values if key not in known}
    return {near for key in keys if (near := nearest_name(key, known)) in SECTIONS}


def overruled(
    overrides: Tree, points: Sequence[Point], tree_at: Callable[[Point], Tree], *, space: str, axes: Any
) -> list[Mistake]:
    """Return a mistake for each override that no configuration has.

    Points lie above overrides, so a field that every point sets is lost on all of them. So is an
    option of a method where every point picks another method.

    Args:
        overrides: of the command line: dotted field -> value.
        points: of the grid, or corners of the search; none where these have mistakes, told by themselves.
        tree_at: merges all layers at a point.
        space: 'grid' or 'search.space', which the points are from.
        axes: what the recipe says there.
    """
    mistakes: list[Mistake] = []
    for dotted, value in overrides.items() if points else ():
        section, word = dotted.partition(".")[0], f"{OVERRIDES} {dotted}={in_toml(value)}"
        if section not in SECTIONS:
            continue
        if all(_sets(point, dotted) for point in points):
            problem = f"{word} would change nothing: [{space}] sets {dotted} in every configuration."
            mistakes.append(Mistake(problem=problem, hint=_instead(dotted, value, space, axes)))
        elif not any(_has(tree_at(point), dotted, value) for point in points):
            problem = f"{word} would change nothing: [{space}] always picks another {section} after it."
            hint = f"write it beside the name: {section} = [{{ name = '...', option = ... }}] in [{space}]."
            if dotted == section and not isinstance(value, (str, list)):
                problem = f"{word}: {section} is a name, or a table of options."
                hint = f"write -o {section}=NAME, or -o {section}.option=value."
            mistakes.append(Mistake(problem=problem, hint=hint))
    return mistakes


def idle_teachers(overrides: Tree, trees: Iterable[Tree], catalog: Catalog) -> list[Mistake]:
    """Return a mistake for each override about a teacher where all methods of a recipe take none.

    Args:
        overrides: of the command line: dotted field -> value.
        trees: all layers merged, at each point.
        catalog: of the methods; one that it does not have is another mistake.
    """
    words = [dotted for dotted in overrides if dotted.partition(".")[0] == "teacher"]
    if not words:
        return []
    untaught: dict[str, None] = {}
    for tree in trees:
        name = look_up(tree, f"method.{NAME}") or default_name("method", tree)
        entry = catalog["method"].find(name) if isinstance(name, str) else None
        if entry is None or entry.item.num_teachers[1] != 0:
            return []
        untaught[entry.name] = None
    names = ", ".join(f"'{name}'" for name in untaught)
    hint = "leave it out, or choose another method: kdctl list methods."
    return [
        Mistake(
            problem=f"{OVERRIDES} {dotted}={in_toml(overrides[dotted])} would change nothing: "
            f"{names} takes no teacher.",
            hint=hint,
        )
        for dotted in words
    ]


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
        word = shlex.quote(f"{space}.{dotted}=[{in_toml(value)}]")
        return f"to have this value alone: -o {word}; or take {dotted} out of [{space}]."
    return f"change {dotted} in the recipe's [{space}], or take it out there."


def idle_whens(
    layers: Sequence[Layer], source: str, trees: Sequence[Tree], searched: Iterable[str]
) -> list[When]:
    """Return the `[[when]]` blocks of one file that hold in none of `trees`: what they set is not checked.

    Blocks about sections that the command line chooses, or a search, are passed over: they may be meant.

    Args:
        layers: all of a recipe, lowest first.
        source: the file.
        trees: all layers merged, for each configuration and each teacher.
        searched: dotted fields that are not the same in all trials.
    """
    place = max(number for number, layer in enumerate(layers) if layer.source == source)
    chosen = [*searched, *(dotted for layer in layers[place + 1 :] for dotted in layer.values)]
    sections = {dotted.partition(".")[0] for dotted in chosen}
    return [
        when
        for when in layers[place].whens
        if not any(holds(when, tree) for tree in trees)
        and sections.isdisjoint(dotted.partition(".")[0] for dotted in when.conditions)
    ]
