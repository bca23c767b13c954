"""All registries by kind, which is what a recipe may name, and recipes opened with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdctl.plugins import load_installed_plugins, load_plugin_file
from kdctl.protocols.augmentation import augmentations
from kdctl.protocols.backbone import models
from kdctl.protocols.dataset import datasets
from kdctl.protocols.distiller import methods
from kdctl.protocols.projector import projectors
from kdctl.recipe.layers import Layer
from kdctl.recipe.load import override_layer, plugin_paths, read_layers, smoke_layer
from kdctl.recipe.optimization import optimizers, schedules
from kdctl.recipe.recipe import Recipe, make_recipe
from kdctl.recipe.sections import Catalog


def full_catalog() -> Catalog:
    """Return every registry, plug-ins of installed packages included."""
    load_installed_plugins()
    registries = (methods, models, projectors, datasets, augmentations, optimizers, schedules)
    return {registry.kind: registry for registry in registries}


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
