"""The tables of a recipe, and the kinds of plug-ins they pick by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdctl.recipe.layers import NAME, Layer, When
from kdctl.registry import Registry

Catalog = Mapping[str, Registry[Any]]
"""Kind of plug-in ('method', 'model', ...) -> its registry."""

PLUGIN_SECTIONS = {
    "data": "dataset",
    "student": "model",
    "method": "method",
    "optimizer": "optimizer",
    "schedule": "schedule",
}
"""Tables that pick one plug-in -> of which kind."""

SECTIONS = ("data", "student", "teacher", "method", "optimizer", "schedule", "engine")
"""Tables that describe a run."""

HEADINGS = (
    *("schema", "name", "description", "protocol", "extends", "plugins", "seeds", "baseline_seeds"),
    *("grid", "search", "when", "budget", "racing", "pruning", "reported", "report", "smoke"),
)
"""Everything else a recipe may say."""


STUDENT_WEIGHTS = "weights"
"""Key of the student's table beside its options: what it starts from, if not from drawn weights."""


def default_name(section: str, tree: Mapping[str, Any]) -> str | None:
    """Return the plug-in that stands in `section` when the recipe `tree` names none."""
    if section == "method":
        return "simkd" if "teacher" in tree else "ce"
    return {"optimizer": "sgd", "schedule": "step"}.get(section)


def with_canonical_names(layer: Layer, catalog: Catalog) -> Layer:
    """Return the layer with each plug-in's name in its one canonical spelling.

    So `student = "ShuffleV1"` meets the `[[when]]` block for `shufflenetv1`, and a layer that says
    the same name in another spelling does not look like another choice.
    """
    return dataclasses.replace(
        layer,
        values=_canonical_sections(layer.values, catalog),
        whens=tuple(
            When(
                conditions={
                    dotted: tuple(_canonical(_table_of(dotted), value, catalog) for value in values)
                    for dotted, values in when.conditions.items()
                },
                values=_canonical_sections(when.values, catalog),
            )
            for when in layer.whens
        ),
    )


def _canonical_sections(values: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    return {
        key: _canonical(key, value, catalog) if key in SECTIONS else value for key, value in values.items()
    }


def _canonical(key: str, value: Any, catalog: Catalog) -> Any:
    """Rewrite what stands under `key`; a nested table ('projector') is named after its kind."""
    if isinstance(value, Mapping):
        name = {NAME: _canonical(key, value[NAME], catalog)} if NAME in value else {}
        return {inner: _canonical(inner, item, catalog) for inner, item in value.items()} | name
    if isinstance(value, list):
        return [_canonical(key, item, catalog) for item in value]
    registry = catalog.get("model" if key == "teacher" else PLUGIN_SECTIONS.get(key, key))
    entry = registry.find(value) if registry and isinstance(value, str) else None
    return entry.name if entry else value


def _table_of(dotted: str) -> str:
    """Return the last table on the way to a field: 'student.name' -> 'student'."""
    return dotted.removesuffix(f".{NAME}").rpartition(".")[2] if dotted.endswith(f".{NAME}") else ""


def fields_called(name: str, catalog: Catalog) -> list[str]:
    """Return the fields of a run whose option has this name, or these initials: 'lr' is a learning rate."""
    return list(
        dict.fromkeys(
            f"{section}.{option.name}"
            for section, kind in PLUGIN_SECTIONS.items()
            for entry in catalog[kind].entries()
            for option in dataclasses.fields(entry.config)
            if name and name in (option.name, _initials(option.name))
        )
    )


def _initials(name: str) -> str:
    words = name.split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""
