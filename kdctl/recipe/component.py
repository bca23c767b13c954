"""How a configuration says "another plug-in goes here", and which range an option may be tuned over."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from kdctl.records import to_tree

# Keys of a field's metadata. The prefix matters: pydantic takes plain words for its own settings.
COMPONENT = "kdctl:component"
COMPONENT_DEFAULT = "kdctl:default"
RANGE = "kdctl:range"
LOCATION = "kdctl:location"


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
        options = {
            item.name: _option_tree(getattr(self.options, item.name))
            for item in dataclasses.fields(self.options)
        }
        plugin = {"plugin_sha256": self.plugin_sha256} if self.plugin_sha256 else {}
        return {"name": self.name, **options, **plugin}


@dataclass(frozen=True, kw_only=True)
class Range:
    """A range of numbers to search in."""

    low: float
    high: float
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


def _option_tree(value: Any) -> Any:
    return value.tree() if isinstance(value, Spec) else to_tree(value)
