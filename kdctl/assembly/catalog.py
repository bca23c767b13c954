"""All registries by kind: what a recipe may name."""

from __future__ import annotations

from kdctl.plugins import load_installed_plugins
from kdctl.protocols.backbone import models
from kdctl.protocols.dataset import datasets
from kdctl.protocols.distiller import methods
from kdctl.protocols.projector import projectors
from kdctl.recipe.optimization import optimizers, schedules
from kdctl.recipe.sections import Catalog


def full_catalog() -> Catalog:
    """Return every registry, plug-ins of installed packages included."""
    load_installed_plugins()
    registries = (methods, models, projectors, datasets, optimizers, schedules)
    return {registry.kind: registry for registry in registries}
