"""Opening recipes: files, presets, overrides and the plug-ins they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdctl.assembly.catalog import full_catalog
from kdctl.plugins import load_plugin_file
from kdctl.recipe.layers import Layer
from kdctl.recipe.load import override_layer, read_layers, smoke_layer
from kdctl.recipe.recipe import Recipe, make_recipe, plugin_paths


def open_recipe(
    path: Path | str,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path] = (),
    *,
    smoke: bool = False,
) -> Recipe:
    """Read a recipe file, with `key=value` overrides on top; with `smoke` in its scaled-down form.

    Raises:
        RecipeError: everything that is wrong with its headings, its grid and the overrides.
    """
    layers = read_layers(Path(path))
    small = [smoke_layer(layers, override_layer(overrides))] if smoke else []
    return recipe_from_layers([*layers, *small], overrides, plugins)


def recipe_from_layers(
    layers: Sequence[Layer], overrides: Sequence[str] = (), plugins: Sequence[Path] = ()
) -> Recipe:
    """Make a recipe of layers, importing the plug-ins it needs first."""
    top = [override_layer(overrides)] if overrides else []
    for path in (*plugins, *plugin_paths([*layers, *top])):
        load_plugin_file(path)
    return make_recipe([*layers, *top], full_catalog())
