"""Reading recipes: TOML files, what they extend, and overrides from the command line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from kdctl.errors import Mistake, UsageError, suggestion
from kdctl.files import is_gone, read_file
from kdctl.recipe.bounds import unfit_text
from kdctl.recipe.layers import NAME, Layer, Tree, When, flat, nested
from kdctl.recipe.sections import PLUGIN_SECTIONS, SECTIONS, STUDENT_WEIGHTS
from kdctl.recipe.shipped import located, meant_by, preset_text
from kdctl.recipe.values_in_toml import as_written, number_meant

OVERRIDES = "-o"
"""Source of the layer that `key=value` words of the command line make."""

SMOKE = "--smoke"
"""Source of the layer that scales a recipe down."""

SMOKE_HEADING = "smoke"
"""Table of a recipe with what is scaled down in it besides."""

_LARGEST_FILE = 10_000_000
"""Bytes: what is larger is no recipe."""

_LONGEST_KEY = 200
"""Letters of a dotted field on the command line."""

_SHOWN = 60
"""Letters of what is wrong on the command line."""

_TEXTS = ("teacher.run", "teacher.checkpoint", f"student.{STUDENT_WEIGHTS}", "data.path", "run")
"""Fields for keys of runs and for places, which may look like numbers or dates: 1e234567, 2024-05-01."""

_OF_A_FILE = ("schema", "extends", "when")
"""What only a file can say: it is read before the command line's overrides are laid on top."""

_IN_FILE = "write it in the recipe's file."


def read_layers(path: Path) -> list[Layer]:
    """Read a recipe and all it extends; the lowest layer first. A shipped one may be named without its path.

    What is extended twice, by different ways, is one layer, below all that extend it.

    Raises:
        UsageError: a file is missing, is not TOML, or extends itself. Other mistakes are kept in
            the layers.
    """
    return list({layer.source: layer for layer in _read(located(path), ())}.values())


def layers_of_text(text: str, path: Path) -> list[Layer]:
    """Return the layers of a recipe that is not written yet, as if it stood in `path`.

    Raises:
        UsageError: it is not TOML, or what it extends cannot be read.
    """
    source, tree = str(path), parse_toml(text, str(path))
    return [*_parents(tree, source, path.parent, (str(path.resolve()),)), _layer(tree, source)]


def preset_layers(name: str) -> list[Layer]:
    """Return the layers of a built-in protocol preset.

    Raises:
        UsageError: there is no such preset.
    """
    source = f"preset {name}"
    tree = parse_toml(preset_text(name), source)
    return [*_parents(tree, source, Path(), (source,)), _layer(tree, source)]


def override_layer(overrides: Sequence[str], option: str = OVERRIDES) -> Layer:
    """Turn `key=value` words of the command line into a layer; values are TOML, else plain text.

    A later word wins over an earlier one. Words that cannot be understood are kept as the layer's
    mistakes, with the `option` that they were given by.
    """
    values: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    usual = f"write {option} {'section.option' if option == OVERRIDES else 'option'}=value."
    for word in overrides:
        key, equals, text = (part.strip() for part in word.partition("="))
        problem, hint = "", usual
        if not equals or not all(key.split(".")):
            problem = f"{word}: this is not key=value."
        elif not text:  # as an unset variable of a shell leaves it
            problem, hint = f"{word}: there is no value.", "give it one, or leave the word out."
        elif unfit := _unfit_override(key, text):
            problem = f"{word[:_SHOWN]}: {unfit}."
        elif toml_value(text) == {} and not key.startswith("search."):  # there it is a field's own range
            problem = f"{word}: a table without a field changes nothing."
        elif key.partition(".")[0] in _OF_A_FILE:
            problem, hint = f"{word}: `{key}` is not a value that a run could have.", _IN_FILE
        if problem:
            mistakes.append(Mistake(problem=f"{option} {problem}", hint=hint))
            continue
        values.pop(key, None)  # so that the last word of equal ones is last in order, too
        values[key] = _value_of(key, text)
    return Layer(source=option, values=nested(values), mistakes=tuple(mistakes))


def _value_of(key: str, text: str) -> Any:
    value = toml_value(text)
    return text if key in _TEXTS and not isinstance(value, (str, list, dict)) else value


def smoke_layer(layers: Sequence[Layer], overrides: Layer) -> Layer:
    """Return the layer that scales a recipe down until all its runs take seconds: see `smoke.toml`.

    The recipe's name gets an ending, so that both can be kept and reported. What it says itself under
    `[smoke]`, or else what it extends, is part of the layer, too.

    Args:
        layers: of the recipe.
        overrides: the command line's; what it says of the same fields holds instead, for teachers, too.
    """
    small = parse_toml(files("kdctl.recipe").joinpath("smoke.toml").read_text(encoding="utf-8"), SMOKE)
    names = [layer.values["name"] for layer in layers if "name" in layer.values]
    fields = {"name": f"{names[-1] if names else Path(layers[-1].source).stem}-smoke", **flat(small)}
    own = [layer.values[SMOKE_HEADING] for layer in layers if SMOKE_HEADING in layer.values]
    fields |= flat(own[-1]) if own else {}
    said = flat(overrides.values)
    values = {dotted: said.get(dotted, value) for dotted, value in fields.items() if dotted != "schema"}
    return Layer(source=SMOKE, values=nested(values), above_grid=True)


def _unfit_override(key: str, text: str) -> str | None:
    if len(key) > _LONGEST_KEY:
        return "no field has so long a name"
    return unfit_text([key, toml_value(text)])


def toml_value(text: str) -> Any:
    """Read a TOML value; what is not one is taken as plain text."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # thousands of digits or brackets, too
        return text
    return table["value"] if len(table) == 1 else text


def _read(path: Path, chain: tuple[str, ...]) -> list[Layer]:
    source = str(path)
    try:
        resolved = os.path.realpath(path)
    except ValueError as error:  # a NUL
        raise UsageError(f"the recipe {source!r} has a name that no file can have.", "check it.") from error
    if resolved in chain:
        raise UsageError(f"{source} extends itself, through {' -> '.join(chain)}.", "take one `extends` out.")
    try:
        text = read_file(path, at_most=_LARGEST_FILE).decode("utf-8-sig")  # editors of Windows write a mark
    except OSError as error:
        meant = " or ".join(f"'{name}'" for name in meant_by(path)) if is_gone(path) else ""
        raise UsageError(
            f"the recipe {source} cannot be read ({error.strerror}).",
            f"{f'did you mean {meant}?' if meant else 'check the path;'} "
            "kdctl list recipes shows those that come with kdctl.",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not a text file in UTF-8.", "a recipe is a TOML file.") from error
    tree = parse_toml(text, source)
    return [*_parents(tree, source, path.parent, (*chain, resolved)), _layer(tree, source)]


def _parents(tree: Tree, source: str, folder: Path, chain: tuple[str, ...]) -> list[Layer]:
    extends = tree.get("extends", [])
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"{source}: extends = {as_written(extends)} is not a name.",
            "name a preset, a file, or a list of them.",
        )
    layers: list[Layer] = []
    for name in names:
        if name.endswith(".toml"):
            layers.extend(_read(Path(os.path.normpath(folder / name)), chain))
        else:
            layers.extend(preset_layers(name))
    return layers


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Return the tables of a text.

    Raises:
        UsageError: it is not TOML, or holds what no recipe can mean.
    """
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{source}: lists or tables are nested too deep.", "take brackets out.") from error
    except ValueError as error:  # of numbers of thousands of digits, too
        raise UsageError(f"{source}: not valid TOML: {error}.", _hint_on_line(text, str(error))) from error
    if unfit := unfit_text(tree):
        raise UsageError(f"{source}: {unfit}.", "take it out.")
    return tree


def _hint_on_line(text: str, message: str) -> str:
    """Say how to mend what is no TOML; a number without its zero is the usual slip."""
    place = re.search(r"at line (\d+)", message)
    lines = text.split("\n")
    line = lines[int(place[1]) - 1] if place and int(place[1]) <= len(lines) else ""
    for word in re.findall(r"[^\s=\[\]{},]+", line.partition("#")[0]):
        number = number_meant(word)
        if number and "." in word and number != word:
            return f"a number has digits on both sides of its point: write {number}."
    return "mend the line it names."


def _layer(tree: dict[str, Any], source: str) -> Layer:
    mistakes: list[Mistake] = []
    if tree.get("schema", 1) != 1:
        problem = f"{source}: schema = {as_written(tree['schema'])} is not known."
        mistakes.append(Mistake(problem=problem, hint="write schema = 1."))
    whens = _whens(tree.get("when", []), source, mistakes)
    values = {key: value for key, value in tree.items() if key not in _OF_A_FILE}
    small = values.get(SMOKE_HEADING, {})
    if not isinstance(small, Mapping) or not all(
        key in SECTIONS and isinstance(table, Mapping) for key, table in small.items()
    ):
        problem = f"{source}: [{SMOKE_HEADING}] holds tables of sections of a run, and nothing else."
        mistakes.append(Mistake(problem=problem, hint="write [smoke.data] size = 64, for example."))
        del values[SMOKE_HEADING]
    return Layer(source=source, values=values, whens=whens, mistakes=tuple(mistakes))


def _whens(blocks: Any, source: str, mistakes: list[Mistake]) -> tuple[When, ...]:
    whens: list[When] = []
    for block in blocks if isinstance(blocks, list) else [blocks]:
        if not _is_when(block):
            problem = f"{source}: a [[when]] block needs the tables `is` and `set`, and nothing else."
            hint = "write is.student.name = [...] and set.optimizer.learning_rate = ..."
            mistakes.append(Mistake(problem=problem, hint=hint))
            continue
        for key in dict.fromkeys((*block["is"], *block["set"])):
            if key not in SECTIONS:
                problem = f"{source}: [[when]] speaks of '{key}', which is no section of a run."
                mistakes.append(Mistake(problem=problem, hint=suggestion(key, SECTIONS, "Sections")))
        whens.append(When(conditions=_conditions(block["is"]), values=block["set"]))
    return tuple(whens)


def _is_when(block: Any) -> bool:
    return (
        isinstance(block, Mapping)
        and set(block) == {"is", "set"}
        and all(isinstance(table, Mapping) for table in block.values())
    )


def _conditions(tree: Tree) -> dict[str, tuple[Any, ...]]:
    """Return each field with the values it may have; a section's bare value is its name."""
    return {
        f"{dotted}.{NAME}" if dotted in (*PLUGIN_SECTIONS, "teacher") else dotted: (
            tuple(value) if isinstance(value, list) else (value,)
        )
        for dotted, value in flat(tree).items()
    }


def plugin_paths(layers: Sequence[Layer]) -> tuple[Path, ...]:
    """Return the plug-in files the layers name, each relative to the recipe that names it."""
    paths: list[Path] = []
    for layer in layers:
        folder = Path(layer.source).parent  # of words of the command line it is where we stand
        names: Any = layer.values.get("plugins", [])
        if are_texts(names):
            paths.extend(folder / name for name in names)
    return tuple(dict.fromkeys(paths))


def are_texts(raw: Any) -> bool:
    """Return whether a value of a recipe is a list of texts."""
    return isinstance(raw, list) and all(isinstance(item, str) for item in raw)
