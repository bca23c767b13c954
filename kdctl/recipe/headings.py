"""What a recipe says at its top that no recipe has, and where it belongs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from kdctl.errors import Mistake, nearest_name, suggestion
from kdctl.recipe.layers import Layer, flat
from kdctl.recipe.load import OVERRIDES
from kdctl.recipe.sections import HEADINGS, SECTIONS, Catalog, fields_called


def unknown_headings(layer: Layer, catalog: Catalog) -> Iterator[Mistake]:
    """Yield a mistake for each key of a layer that a recipe does not have."""
    known = (*SECTIONS, *HEADINGS)
    fields = flat(layer.values) if layer.source == OVERRIDES else layer.values
    for dotted, value in fields.items():
        heading = dotted.partition(".")[0]
        if heading in known:
            continue
        word = f" {dotted}={json.dumps(value, default=str)}" if layer.source == OVERRIDES else ""
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
