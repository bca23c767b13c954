"""The words that describe a run on the command line, in place of a recipe or on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdctl.cli.options import RECIPE
from kdctl.cli.short_names import refuse_other_word
from kdctl.errors import UsageError

if TYPE_CHECKING:
    from kdctl.recipe.recipe import Recipe

Student = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", rich_help_panel=RECIPE, help="Architecture of the student: kdctl list models."
    ),
]
Teachers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=RECIPE,
        help="Architecture, key of a run, or checkpoint file; may repeat. None: the student alone.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=RECIPE,
        help="kdctl list methods; if not given simkd, or without a teacher ce (labels alone).",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=RECIPE,
        help="kdctl list datasets; if not given that of the protocol, cifar100.",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=RECIPE,
        help="Preset of data, batch size, learning rate and length: simkd (if not given), crd, imagenet or "
        "deit; kdctl show PRESET explains one.",
    ),
]

DEFAULT_PROTOCOL = "simkd"
_OPTIONS = {
    "student": "--student",
    "teacher": "--teacher",
    "method": "--method",
    "data": "--dataset",
    "seeds": "--seed",
}
"""Field of a recipe -> option that sets it."""


def teacher_table(word: str) -> dict[str, str]:
    """Say what a `--teacher` word is: an architecture, a file, or a run key."""
    from kdctl.engine.file_kinds import names_a_file
    from kdctl.protocols.backbone import models
    from kdctl.recipe.teacher_section import is_like_key

    if models.find(word) is not None:
        return {"name": word}
    if names_a_file(word):
        return {"checkpoint": word}
    return {"run": word} if is_like_key(word) else {"name": word}


def layer(student: str | None, teachers: Sequence[str] | None, **others: Any) -> dict[str, Any]:
    """Return the words of a command line as a recipe would write them; those not given are left out.

    Raises:
        UsageError: a list is given where a run has one value.
    """
    for name, word in {"student": student, **others}.items():
        if isinstance(word, str) and ("," in word or word.startswith("[")):
            hint = "lists belong into [[grid]] of a recipe: kdctl init writes one, kdctl sweep runs it."
            raise UsageError(f"a run has one {name}, but '{word}' was given.", hint)
    tables = [teacher_table(word) for word in teachers or []]
    # One teacher as a table, so that -o teacher.schedule.epochs=2 can add to it.
    teacher = tables[0] if len(tables) == 1 else tables or None
    values = {"student": student, "teacher": teacher, **others}
    return {key: value for key, value in values.items() if value is not None}


def open_recipe(
    path: Path | None,
    protocol: str | None,
    values: dict[str, Any],
    overrides: Sequence[str],
    plugins: Sequence[Path],
    *,
    unless_said: dict[str, Any] | None = None,
) -> Recipe:
    """Open a recipe file, or the preset of a protocol, with the command line's values on top.

    Args:
        path: the recipe file, if one is named.
        protocol: the preset to use without a file.
        values: from the words of the command line, as a recipe would write them.
        overrides: `key=value` words, which win over all else.
        plugins: files of plug-ins.
        unless_said: values for what nothing else sets.

    Raises:
        UsageError: the words contradict each other, or name no student.
        RecipeError: everything that is wrong with recipe and values.
    """
    from kdctl.assembly import catalog
    from kdctl.recipe.layers import Layer
    from kdctl.recipe.load import preset_layers, read_layers

    if path is not None and protocol is not None:
        raise UsageError(
            f"--protocol {protocol} does not go with the recipe {path}.",
            f"leave it out, or write extends = '{protocol}' in the recipe.",
        )
    if path is None and "student" not in values:
        raise UsageError("no student is named.", "say --student resnet8x4 [--teacher resnet32x4]")
    for field, option in _OPTIONS.items():
        if field in values:
            said = f"{option} {values[field]}" if isinstance(values[field], str) else option
            refuse_other_word(said, field, values[field], overrides)
    is_taught = "teacher" in values or any(word.lstrip().startswith("teacher") for word in overrides)
    if path is None and not is_taught:
        values = {"method": "ce", **values}
    if path is not None:
        refuse_model(path)
    base = read_layers(path) if path else preset_layers(protocol or DEFAULT_PROTOCOL)
    layers = [*base, Layer(source="command line", values=values)] if values else base
    if unless_said:
        layers = [Layer(source="command line", values=unless_said), *layers]
    return catalog.open_recipe(layers, overrides, plugins)


def refuse_model(path: Path) -> None:
    """Refuse the name of a model where a recipe belongs, unless there is such a recipe.

    Raises:
        UsageError: it is a model's name.
    """
    from kdctl.assembly.catalog import full_catalog
    from kdctl.recipe.shipped import located

    if path.suffix or path.parent != Path() or located(path).exists():
        return
    if full_catalog()["model"].find(str(path)):
        raise UsageError(
            f"'{path}' is a model, and no recipe.",
            f"kdctl train --student {path} trains it; kdctl init mine.toml --student {path} writes one.",
        )
