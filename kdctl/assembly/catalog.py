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
from kdctl.text import one_or_several


def full_catalog() -> Catalog:
    """Return every registry, plug-ins of installed packages included."""
    load_installed_plugins()
    registries = (methods, models, projectors, datasets, augmentations, optimizers, schedules)
    return {registry.kind: registry for registry in registries}


def open_recipe(
    source: Path | str | Sequence[Layer],
    overrides: str | Sequence[str] = (),
    plugins: Sequence[Path | str] = (),
    *,
    smoke: bool = False,
) -> Recipe:
    """Read a recipe and import the plug-ins it needs.

    Args:
        source: its file, or its layers, the lowest first.
        overrides: `key=value` words that lie on top.
        plugins: files of plug-ins besides those it names.
        smoke: scale it down, to be tried in minutes.

    Raises:
        RecipeError: everything that is wrong with its headings, its grid and the overrides.
        UsageError: a file is missing or cannot be read, or a plug-in cannot be imported.
    """
    catalog = full_catalog()
    layers = read_layers(Path(source)) if isinstance(source, (Path, str)) else list(source)
    top = override_layer(one_or_several(overrides))
    layers += [smoke_layer(layers, top)] if smoke else []
    layers += [top] if overrides else []
    for path in (*plugins, *plugin_paths(layers)):
        load_plugin_file(Path(path))
    return make_recipe(layers, catalog)
