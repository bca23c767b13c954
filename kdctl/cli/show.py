"""`kdctl show`: what a name of a recipe stands for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options

if TYPE_CHECKING:
    from kdctl.recipe.documentation import OptionHelp
    from kdctl.workflows.describing import (
        ArchitectureFacts,
        Description,
        MethodFacts,
        PluginDescription,
        PresetDescription,
        RecipeDescription,
    )

SECTIONS = {
    "augmentation": "data.augmentation",
    "dataset": "data",
    "model": "student",
    "projector": "method.projector",
}
"""Kind of plug-in -> the table of a recipe that picks it, where that is not the kind's own name."""

_TEACHERS = ("resnet32x4", "wrn_40_2")
"""Of examples; most methods take one."""

_FOLDED = 60
"""A line that is longer than this goes on in the next one."""

_BEGINS_ANEW = re.compile(r"\s|[-*] |\S+( ?\([^)]*\))? = ")
"""Items of a list, and equations."""


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A method, model, projector, data set, augmentation, optimizer, schedule, preset or recipe.",
        ),
    ],
    plugin: options.Plugins = None,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Explain a method, model, preset or recipe: options with defaults and ranges, paper, cost, an example.

    For example: kdctl show simkd, kdctl show resnet8x4, or kdctl show quickstart
    """
    from kdctl.cli.console import print_json, print_wrapped
    from kdctl.plugins import load_plugins
    from kdctl.serialization import to_tree
    from kdctl.workflows.describing import describe_name

    load_plugins(plugin)
    found = describe_name(name)
    if form is options.Format.JSON:
        print_json(found=[to_tree(description) for description in found])
        return
    for place, description in enumerate(found):
        if place:
            print_wrapped("")
        for text, indent in _lines(description):
            print_wrapped(text, indent=indent)


def _lines(description: Description) -> Iterator[tuple[str, int]]:
    """Yield the lines of a description, each with the column that its continuation begins in."""
    from kdctl.workflows.describing import PluginDescription, PresetDescription

    if isinstance(description, PluginDescription):
        yield from _plugin(description)
    elif isinstance(description, PresetDescription):
        yield from _preset(description)
    else:
        yield from _recipe(description)


def _plugin(plugin: PluginDescription) -> Iterator[tuple[str, int]]:
    spellings = dict.fromkeys((plugin.label, *plugin.aliases))
    others = ", ".join(spelling for spelling in spellings if spelling != plugin.name)
    yield f"{plugin.kind} {plugin.name}" + (f" ({others})" if others else ""), 0
    yield plugin.summary, 0
    if plugin.text:
        yield "", 0
        for line in _unfolded(plugin.text):
            yield line, 0
    yield "", 0
    for name, text in _facts(plugin):
        yield f"{name:<12}{text}", 12
    if plugin.options:
        yield "", 0
        yield "options", 0
        for option in plugin.options:
            yield from _option(option, SECTIONS.get(plugin.kind, plugin.kind))


def _unfolded(text: str) -> Iterator[str]:
    """Yield the lines of a text, those put together that were one before it was folded for a file."""
    whole = ""
    for line in text.splitlines():
        if whole and line and len(whole) > _FOLDED and not _BEGINS_ANEW.match(line):
            whole += f" {line.strip()}"
            continue
        if whole:
            yield whole
        if not line:
            yield ""
        whole = line
    yield whole


def _facts(plugin: PluginDescription) -> Iterator[tuple[str, str]]:
    if plugin.paper:
        yield "paper", plugin.paper
    if plugin.source:
        yield "from", plugin.source
    if plugin.method:
        yield from _method(plugin.method)
    if plugin.model:
        yield from _model(plugin.model)
    file = f" --plugin {shlex.quote(plugin.source)}" if plugin.source else ""
    yield "example", _example(plugin) + file


def _method(facts: MethodFacts) -> Iterator[tuple[str, str]]:
    from kdctl.text import plural
    from kdctl.workflows.describing import STUDENT, TEACHER

    if facts.fewest_teachers != facts.most_teachers:
        most = "any number" if facts.most_teachers is None else str(facts.most_teachers)
        yield "teachers", f"{facts.fewest_teachers} to {most}"
    elif facts.fewest_teachers != 1:
        yield "teachers", plural(facts.fewest_teachers, "teacher") if facts.fewest_teachers else "none"
    reads = [*facts.student_taps, *(["logits"] if facts.reads_teacher_logits else [])]
    if reads:
        yield "compares", ", ".join(reads)
    if facts.phases:
        yield "phases", ", then ".join(facts.phases)
    yield (
        "cost",
        f"{facts.added_parameters:,} parameters trained besides the student, {facts.shipped_parameters:,} "
        f"shipped ({STUDENT} <- {TEACHER}, 100 classes); kdctl bench measures the time",
    )


def _model(facts: ArchitectureFacts) -> Iterator[tuple[str, str]]:
    yield "parameters", f"{facts.parameters:,} (100 classes)"
    yield "cost", f"{facts.multiply_adds:,} multiply-adds for an image of 32x32 pixels"
    shapes = (f"{name} {'x'.join(map(str, shape))}" for name, shape in facts.taps.items())
    yield "taps", ", ".join(shapes)
    yield "paired", ", ".join(facts.stage_taps)


def _example(plugin: PluginDescription) -> str:
    if plugin.kind == "method":
        fewest, most = (
            (plugin.method.fewest_teachers, plugin.method.most_teachers) if plugin.method else (1, 1)
        )
        number = 0 if most == 0 else max(fewest, 1)
        teachers = "".join(f" --teacher {_TEACHERS[place % len(_TEACHERS)]}" for place in range(number))
        return f"kdctl train --student resnet8x4{teachers} --method {plugin.name}"
    if plugin.kind == "model":
        return f"kdctl train --student {plugin.name} --teacher resnet32x4"
    if plugin.kind == "dataset":
        required = [
            f" -o data.{option.name}={option.name.upper()}" for option in plugin.options if option.required
        ]
        return f"kdctl train --student resnet8 --dataset {plugin.name}{''.join(required)}"
    if plugin.kind == "projector":
        return f"kdctl train --student resnet8x4 --teacher resnet32x4 -o method.projector={plugin.name}"
    section = SECTIONS.get(plugin.kind, f"{plugin.kind}.name")
    return f"kdctl train --student resnet8x4 -o {section}={plugin.name}"


def _option(option: OptionHelp, section: str) -> Iterator[tuple[str, int]]:
    from kdctl.cli.formatting import setting

    default = "must be given" if option.required else f"{setting(option.default)} if not given"
    values = option.values
    if option.tuned:
        log = ", log" if option.tuned.log else ""
        values += f"; [search] tries {option.tuned.low:g} to {option.tuned.high:g}{log}"
    yield f"  {section}.{option.name}: {values}; {default}", 6
    if option.meaning:
        yield f"      {option.meaning}", 6


def _preset(preset: PresetDescription) -> Iterator[tuple[str, int]]:
    yield f"preset {preset.name}", 0
    for line in _unfolded(preset.comment):
        yield line, 0
    yield "", 0
    yield f"example     kdctl train --student resnet8x4 --teacher resnet32x4 --protocol {preset.name}", 12
    yield f'{"":<12}extends = "{preset.name}" in a recipe', 12
    yield "", 0
    for line in preset.text.splitlines():
        yield line, 2


def _recipe(recipe: RecipeDescription) -> Iterator[tuple[str, int]]:
    from kdctl.cli.formatting import counted_seeds
    from kdctl.text import plural

    yield f"recipe {recipe.name}", 0
    if recipe.description:
        yield recipe.description, 0
    if recipe.comment:
        yield "", 0
        for line in _unfolded(recipe.comment):
            yield line, 0
    yield "", 0
    pairs = (f"{student} <- {teacher}" if teacher else student for student, teacher in recipe.pairs)
    seeds = counted_seeds(recipe.seeds, recipe.baseline_seeds)
    runs = f"{plural(recipe.num_configurations, 'configuration')} × {seeds}"
    written = shlex.quote(recipe.name)
    facts = {
        "file": str(recipe.path),
        "protocol": recipe.protocol,
        "pairs": ", ".join(pairs),
        "methods": ", ".join(recipe.methods),
        "runs": f"{runs}, and the teachers; time and disk: kdctl sweep {written} --dry-run",
        "example": f"kdctl sweep {written}",
    }
    for name, text in facts.items():
        yield f"{name:<12}{text}", 12
