"""The way to a figure: its options read, and drawn in the common style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from kdctl.errors import RecipeError
from kdctl.recipe.layers import Merged
from kdctl.recipe.load import override_layer
from kdctl.recipe.resolve import Resolver
from kdctl.registry import Entry
from kdctl.report.figure import Draw, FigureData, figures
from kdctl.report.plotting import STYLE

OPTION = "--set"


def draw(kind: str, data: FigureData, settings: Sequence[str] = ()) -> Figure:
    """Return a figure of `kind`, drawn with options that words as 'top5=true' set.

    Raises:
        UsageError: there is no such kind, option or value.
        NothingToDrawError: the runs do not hold what it shows.
    """
    entry = figures.get(kind)
    options = _options(entry, settings)
    with mpl.rc_context(STYLE):
        return entry.item(data, options)


def _options(entry: Entry[Draw], settings: Sequence[str]) -> Any:
    """Read options as strictly as those of a recipe's plug-ins."""
    layer = override_layer(settings)
    resolver = Resolver(merged=Merged(tree=dict(layer.values)), catalog={}, source=OPTION)
    resolver.mistakes.extend(layer.mistakes)
    options = resolver.record(entry.config, layer.values, entry.name)
    resolver.finish()
    if options is None:
        raise RecipeError(resolver.mistakes)
    return options
