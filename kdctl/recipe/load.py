"""Reading recipes: TOML files, what they extend, and overrides from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from kdctl.errors import Mistake, RecipeError, UsageError, suggestion
from kdctl.recipe.layers import Layer, Tree, When, flat, nested

SECTIONS = ("data", "student", "teacher", "method", "optimizer", "schedule", "engine")
"""Tables that describe a run."""

HEADINGS = (
    *("schema", "name", "description", "protocol", "extends", "plugins", "seeds"),
    *("grid", "search", "when", "reported", "report"),
)
"""Everything else a recipe may say."""


def read_layers(path: Path) -> list[Layer]:
    """Read a recipe and all it extends; the lowest layer first.

    Raises:
        RecipeError: a file is missing, is not TOML, or extends itself.
    """
    return _read(path, ())


def preset_layers(name: str) -> list[Layer]:
    """Return the layers of a built-in protocol preset.

    Raises:
        UsageError: there is no such preset.
    """
    text = files("kdctl.recipe").joinpath("presets", f"{name}.toml")
    if not text.is_file():
        raise UsageError(
            f"there is no protocol preset '{name}'.", suggestion(name, preset_names(), "Presets")
        )
    source = f"preset {name}"
    tree = _parse(text.read_text(encoding="utf-8"), source)
    return [*_parents(tree, source, Path(), (source,)), _layer(tree, source)]


def preset_names() -> list[str]:
    """Return the names of the built-in protocol presets."""
    folder = files("kdctl.recipe").joinpath("presets")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def override_layer(overrides: Sequence[str]) -> Layer:
    """Turn `key=value` words of the command line into a layer; values are TOML, else plain text.

    Raises:
        RecipeError: a word without '=', or a key that no recipe has.
    """
    values: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for word in overrides:
        key, equals, text = word.partition("=")
        top = key.strip().partition(".")[0]
        if not equals or not key.strip():
            mistakes.append(
                Mistake(problem=f"-o {word}: there is no '='.", hint="write -o section.option=value.")
            )
        elif top not in (*SECTIONS, *HEADINGS):
            known = (*SECTIONS, *HEADINGS)
            mistakes.append(
                Mistake(
                    problem=f"-o {word}: a recipe has no '{top}'.", hint=suggestion(top, known, "Sections")
                )
            )
        else:
            values[key.strip()] = toml_value(text.strip())
    if mistakes:
        raise RecipeError(mistakes)
    return Layer(source="-o", values=nested(values))


def toml_value(text: str) -> Any:
    """Read a TOML value; what is not one is taken as plain text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read(path: Path, chain: tuple[str, ...]) -> list[Layer]:
    source = str(path)
    if str(path.resolve()) in chain:
        raise UsageError(f"{source} extends itself, through {' -> '.join(chain)}.", "take one `extends` out.")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"the recipe {source} cannot be read ({error.strerror}).",
            "check the path; recipes/ holds examples.",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not a text file in UTF-8.", "a recipe is a TOML file.") from error
    tree = _parse(text, source)
    return [*_parents(tree, source, path.parent, (*chain, str(path.resolve()))), _layer(tree, source)]


def _parents(tree: Tree, source: str, folder: Path, chain: tuple[str, ...]) -> list[Layer]:
    extends = tree.get("extends", [])
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"{source}: extends = {extends!r} is not a name.", "name a preset, a file, or a list of them."
        )
    layers: list[Layer] = []
    for name in names:
        is_file = name.endswith(".toml")
        layers.extend(_read(folder / name, chain) if is_file else preset_layers(name))
    return layers


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: not valid TOML: {error}.", "mend the line it names.") from error


def _layer(tree: dict[str, Any], source: str) -> Layer:
    known = (*SECTIONS, *HEADINGS)
    mistakes = [
        Mistake(problem=f"{source}: a recipe has no '{key}'.", hint=suggestion(key, known, "Sections"))
        for key in tree
        if key not in known
    ]
    if tree.get("schema", 1) != 1:
        mistakes.append(
            Mistake(problem=f"{source}: schema = {tree['schema']!r} is not known.", hint="write schema = 1.")
        )
    whens = _whens(tree.get("when", []), source, mistakes)
    if mistakes:
        raise RecipeError(mistakes)
    values = {key: value for key, value in tree.items() if key not in ("extends", "when", "schema")}
    return Layer(source=source, values=values, whens=whens)


def _whens(blocks: Any, source: str, mistakes: list[Mistake]) -> tuple[When, ...]:
    whens: list[When] = []
    for block in blocks if isinstance(blocks, list) else [blocks]:
        good = isinstance(block, Mapping) and set(block) == {"is", "set"}
        if not good or not isinstance(block["is"], Mapping) or not isinstance(block["set"], Mapping):
            mistakes.append(
                Mistake(
                    problem=f"{source}: a [[when]] block needs `is` and `set`, and nothing else.",
                    hint="write is.student.name = [...] and set.optimizer.learning_rate = ...",
                )
            )
            continue
        conditions = {
            dotted: tuple(value) if isinstance(value, list) else (value,)
            for dotted, value in flat(block["is"]).items()
        }
        whens.append(When(conditions=conditions, values=block["set"]))
    return tuple(whens)
