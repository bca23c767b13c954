"""How a configuration says "another plug-in goes here", and which range an option may be tuned over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kdctl.recipe.layers import NAME
from kdctl.serialization import to_tree

# Keys of a field's metadata. The prefix matters: pydantic takes plain words for its own settings.
COMPONENT = "kdctl:component"
COMPONENT_DEFAULT = "kdctl:default"
RANGE = "kdctl:range"
LOCATION = "kdctl:location"

PLUGIN_SHA256 = "plugin_sha256"
"""Key of a spec's table beside its options: which version of a plug-in file is meant."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A plug-in chosen by name, with its options."""

    kind: str
    """Which registry: 'method', 'projector', 'model', 'dataset', 'optimizer', 'schedule'."""
    name: str
    """Canonical name."""
    options: Any
    """Instance of the plug-in's frozen `Config` dataclass; every value explicit."""
    plugin_sha256: str = ""
    """SHA-256 of the plug-in file it comes from; empty for kdctl's own."""

    def tree(self) -> dict[str, Any]:
        """Return name and options as one table, as a recipe would write it."""
        return self._table(dataclasses.fields(self.options), Spec.tree)

    def content(self) -> dict[str, Any]:
        """Return the part of the tree that says what it is: all but where things lie (`location`)."""
        fields = (item for item in dataclasses.fields(self.options) if LOCATION not in item.metadata)
        return self._table(fields, Spec.content)

    def _table(
        self, fields: Iterable[dataclasses.Field[Any]], nested: Callable[[Spec], dict[str, Any]]
    ) -> dict[str, Any]:
        values = {item.name: getattr(self.options, item.name) for item in fields}
        options = {
            name: nested(value) if isinstance(value, Spec) else to_tree(value)
            for name, value in values.items()
        }
        plugin = {PLUGIN_SHA256: self.plugin_sha256} if self.plugin_sha256 else {}
        return {NAME: self.name, **options, **plugin}


@dataclass(frozen=True, kw_only=True)
class Range:
    """A range of numbers to search in."""

    low: int | float
    """Whole numbers at both ends: only whole numbers are tried."""
    high: int | float
    log: bool = False
    """Search the logarithm: for learning rates and weights."""


def component(kind: str, default: str) -> Any:
    """Declare a `Config` field that holds another plug-in's `Spec`, `default` when a recipe is silent."""
    return field(default=None, metadata={COMPONENT: kind, COMPONENT_DEFAULT: default})


def tunable(default: Any, low: float, high: float, *, log: bool = False) -> Any:
    """Declare a `Config` field with a default and the range `[search]` uses when it names the field alone."""
    return field(default=default, metadata={RANGE: Range(low=low, high=high, log=log)})


def location(**settings: Any) -> Any:
    """Declare a `Config` field that says where something lies, not what it is: no part of a run key."""
    return field(metadata={LOCATION: True}, **settings)
