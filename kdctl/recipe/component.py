"""How a configuration declares its options, and what of them is content that a run key is made of."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, TypedDict, Unpack, get_args, get_origin, get_type_hints

from kdctl.recipe.layers import NAME
from kdctl.serialization import to_tree

# Keys of a field's metadata. The prefix matters: pydantic takes plain words for its own settings.
COMPONENT = "kdctl:component"
COMPONENT_DEFAULT = "kdctl:default"
RANGE = "kdctl:range"
LOCATION = "kdctl:location"
HISTORY = "kdctl:history"
WAS_A_NAME = "kdctl:was_a_name"

_NUMBERS = {int, float, Any}

PLUGIN_SHA256 = "plugin_sha256"
"""Key of a spec's table beside its options: which version of a plug-in file is meant."""

PLUGIN_NUMERICS = "numerics"
"""Key of a spec's table beside its options: how often a plug-in of kdctl has changed its numbers."""


class History(TypedDict, total=False):
    """What an option was in earlier versions of its plug-in, so that the keys of old runs stay true."""

    since: str
    """The version of kdctl, or of the plug-in's package, that brought the option."""
    before: Any
    """What all runs did before that: with this value the option is left out of the content. The default,
    unless it was changed later. Of a component: the name of the plug-in that stood there."""
    formerly: str
    """The option's name until it was renamed; the content goes on using it."""


@functools.cache
def options_of_numbers(config: type) -> frozenset[str]:
    """Return the options of a `Config` that may have numbers in them, true and false apart."""
    return frozenset(
        name for name, annotated in get_type_hints(config).items() if _NUMBERS & set(_types_in(annotated))
    )


def _types_in(annotated: Any) -> Iterator[Any]:
    yield annotated
    for inner in () if get_origin(annotated) is Literal else get_args(annotated):
        yield from _types_in(inner)


@dataclass(frozen=True, kw_only=True)
class Past:
    """A declared history."""

    since: str = ""
    """Empty: the option was there from the start."""
    before: Any = None
    """Means nothing without `since`."""
    formerly: str = ""
    """Empty: it was never renamed."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A plug-in chosen by name, with its options."""

    kind: str
    """Which registry: 'method', 'projector', 'model', 'dataset', 'augmentation', ..."""
    name: str
    """Canonical name."""
    options: Any
    """Instance of the plug-in's frozen `Config` dataclass; every value explicit."""
    plugin_sha256: str = ""
    """SHA-256 of the plug-in file it comes from; empty for kdctl's own."""
    numerics: int = 1
    """Raised when kdctl changed the numbers that this plug-in gives."""

    def tree(self) -> dict[str, Any]:
        """Return name and options as one table, as a recipe would write it."""
        values = {item: getattr(self.options, item.name) for item in dataclasses.fields(self.options)}
        options = {
            item.name: _table_or_name(item, value.tree()) if isinstance(value, Spec) else to_tree(value)
            for item, value in values.items()
        }
        return {NAME: self.name, **options, **self._version()}

    def content(self) -> dict[str, Any]:
        """Return what the plug-in's share of a run key is made of; see `content_of`."""
        return {NAME: self.name, **content_of(self.options), **self._version()}

    def _version(self) -> dict[str, Any]:
        plugin = {PLUGIN_SHA256: self.plugin_sha256} if self.plugin_sha256 else {}
        return plugin | ({PLUGIN_NUMERICS: self.numerics} if self.numerics > 1 else {})


@dataclass(frozen=True, kw_only=True)
class Range:
    """A range of numbers to search in."""

    low: int | float
    """Whole numbers at both ends: only whole numbers are tried."""
    high: int | float
    log: bool = False
    """Search the logarithm: for learning rates and weights."""


def option(default: Any = MISSING, **history: Unpack[History]) -> Any:
    """Declare a `Config` field that came later or was renamed: `option(False, since="0.2.0")`.

    Raises:
        ValueError: it came later, and nothing says what runs did before.
    """
    return field(default=default, metadata=_metadata(default, history))


def component(kind: str, default: str, *, was_a_name: bool = False, **history: Unpack[History]) -> Any:
    """Declare a `Config` field that holds another plug-in's `Spec`, `default` when a recipe is silent.

    Args:
        kind: of plug-in.
        default: the name of one.
        was_a_name: the option was one of a few words before it picked plug-ins. In plans and run keys a
            plug-in without options is then still its name alone, not a table. Options that are made without
            a recipe hold the name, too.
        **history: as `option` takes it.
    """
    metadata = {COMPONENT: kind, COMPONENT_DEFAULT: default, WAS_A_NAME: was_a_name}
    return field(default=default if was_a_name else None, metadata=metadata | _metadata(default, history))


def tunable(default: Any, low: float, high: float, *, log: bool = False, **history: Unpack[History]) -> Any:
    """Declare a `Config` field with a default and the range `[search]` uses when it names the field alone."""
    metadata = {RANGE: Range(low=low, high=high, log=log)}
    return field(default=default, metadata=metadata | _metadata(default, history))


def location(**settings: Any) -> Any:
    """Declare a `Config` field that says where something lies, not what it is: no part of a run key."""
    return field(metadata={LOCATION: True}, **settings)


def places_of(options: Any) -> tuple[str, ...]:
    """Return the names of the fields that say where something lies."""
    return tuple(item.name for item in dataclasses.fields(options) if LOCATION in item.metadata)


def content_of(options: Any) -> dict[str, Any]:
    """Return the part of a record of options that says what it is.

    Left out are places (`location`) and options that came later and have the value that stands for
    doing as before. A renamed option has its first name. Options that are gone (`removed` of the
    record's class) are there with the one value that is left of them.
    """
    content = dict(removed_options(type(options)))
    for item in dataclasses.fields(options):
        value, past = getattr(options, item.name), past_of(item)
        if LOCATION in item.metadata or (past.since and _is(value, past.before)):
            continue
        name = past.formerly or item.name
        content[name] = _table_or_name(item, value.content()) if isinstance(value, Spec) else to_tree(value)
    return content


def _table_or_name(item: dataclasses.Field[Any], table: dict[str, Any]) -> Any:
    """Return a component's table; its name alone where it holds nothing else, if the option was a name."""
    return table[NAME] if item.metadata.get(WAS_A_NAME) and table.keys() == {NAME} else table


def past_of(item: dataclasses.Field[Any]) -> Past:
    """Return what an option declares of its past."""
    return item.metadata.get(HISTORY, _NO_PAST)


def removed_options(config: type) -> Mapping[str, Any]:
    """Return the options that a `Config` class has no more, with the value that all runs have now."""
    return getattr(config, "removed", {})


def _metadata(default: Any, history: History) -> dict[str, Any]:
    if not history:
        return {}
    if "since" in history and "before" not in history:
        if default is MISSING:
            raise ValueError("an option that came later needs a default, or says what was before it.")
        history = {**history, "before": default}
    return {HISTORY: Past(**history)}


_NO_PAST = Past()


def _is(value: Any, before: Any) -> bool:
    """Whether an option has this value; of a component: names this plug-in and leaves it as it is."""
    return value == before if not isinstance(value, Spec) else value.name == before and _is_plain(value)


def _is_plain(spec: Spec) -> bool:
    """Whether all options have their defaults; a plug-in from elsewhere is told by its version, too."""
    values = {item: getattr(spec.options, item.name) for item in dataclasses.fields(spec.options)}
    return not spec.plugin_sha256 and all(
        _is(value, item.metadata[COMPONENT_DEFAULT] if isinstance(value, Spec) else _default(item))
        for item, value in values.items()
        if LOCATION not in item.metadata
    )


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default
