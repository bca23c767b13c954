"""Opening recipes: files, presets, overrides and the plug-ins they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdctl.plugins import load_plugin_file
from kdctl.recipe.layers import Layer
from kdctl.recipe.load import override_layer, read_layers
from kdctl.recipe.recipe import Recipe, make_recipe, plugin_paths
from kdctl.workflows.catalog import full_catalog


def open_recipe(path: Path | str, overrides: Sequence[str] = (), plugins: Sequence[Path] = ()) -> Recipe:
    """Read a recipe file, with `key=value` overrides on top.

    Raises:
        RecipeError: everything that is wrong with its headings, its grid and the overrides.
    """
    return recipe_from_layers(read_layers(Path(path)), overrides, plugins)


def recipe_from_layers(
    layers: Sequence[Layer], overrides: Sequence[str] = (), plugins: Sequence[Path] = ()
) -> Recipe:
    """Make a recipe of layers, importing the plug-ins it needs first."""
    top = [override_layer(overrides)] if overrides else []
    for path in (*plugins, *plugin_paths([*layers, *top])):
        load_plugin_file(path)
    return make_recipe([*layers, *top], full_catalog())
