"""Registries: how a plug-in file makes itself known under the name a recipe writes.

A registry imports its room on the first look-up, so that a plug-in file needs no list to be
edited; names are matched without case, dashes, underscores and spaces, so that the spellings of
papers (`ResNet-8x4`) find the canonical one (`resnet8x4`). Only between two digits it counts that something
stands there: RegNetY-1.6GF is not RegNetY-16GF.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kdctl.errors import UsageError, suggestion

Item = TypeVar("Item")

_BETWEEN = re.compile(r"[\W_]+")
"""What stands between the letters and digits of a name."""

FAMILY_SEPARATOR = ":"
"""Between a family of plug-ins and the name of one of them: 'timm:resnet50'."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where registrations come from while a plug-in is being imported."""

    source: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of something that has none."""


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[Item]):
    """One registered plug-in."""

    name: str
    item: Item
    config: type
    """Frozen dataclass with the options that a recipe may set."""
    label: str
    """The spelling that papers use."""
    aliases: tuple[str, ...]
    origin: Origin | None
    """The plug-in file it came from; None for kdctl's own."""
    numerics: int = 1
    """Raised when a new version gives other numbers: runs of the old one are then not used again."""

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.item.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True, kw_only=True)
class _PluginImport:
    """A plug-in while it is being imported."""

    origin: Origin
    undo: contextlib.ExitStack
    """Takes back what it registered so far."""


_plugin_import: contextvars.ContextVar[_PluginImport | None] = contextvars.ContextVar(
    "plugin_import", default=None
)


@contextlib.contextmanager
def registering_from(origin: Origin) -> Generator[None]:
    """Mark all registrations made inside as coming from a plug-in; all of them hold, or none.

    What was registered before an error is taken back, and what it had replaced is put back: the
    mended file can be loaded in the same process.
    """
    with contextlib.ExitStack() as undo:
        token = _plugin_import.set(_PluginImport(origin=origin, undo=undo))
        try:
            yield
        finally:
            _plugin_import.reset(token)
        undo.pop_all()


@functools.lru_cache(maxsize=4096)
def folded(name: str) -> str:
    """Return the form in which names are compared."""
    form = ""
    for part in filter(None, _BETWEEN.split(name.casefold())):
        form += "_" + part if form[-1:].isdigit() and part[0].isdigit() else part
    return form


class Registry(Generic[Item]):
    """All plug-ins of one kind, by name."""

    def __init__(
        self, kind: str, room: str, *, base: type | None = None, needs: tuple[str, ...] = ()
    ) -> None:
        """Make a registry.

        Args:
            kind: of what, singular: 'method'.
            room: package in which its files lie.
            base: what is registered derives from it; None: it is anything that can be called.
            needs: attributes that it has.
        """
        self.kind = kind
        self._base, self._needs = base, needs
        self._room = room
        self._room_imported = False
        self._entries: dict[str, Entry[Item]] = {}
        self._by_folded_name: dict[str, str] = {}
        self._families: dict[str, Callable[[str], tuple[str, Item]]] = {}

    def register(
        self,
        name: str,
        *,
        config: type | None = None,
        label: str | None = None,
        aliases: tuple[str, ...] = (),
        numerics: int = 1,
    ) -> Callable[[Item], Item]:
        """Return a decorator that registers its argument under `name` and `aliases`.

        The options are `config`, else the item's own `Config` class, else none. A version that gives
        other numbers than the one before raises `numerics`.

        Raises:
            UsageError: the name or an alias is taken by another plug-in, or what is registered is no such
                plug-in.
        """

        def decorate(item: Item) -> Item:
            # A plug-in that imports one of our files does not make it its own.
            importing = None if self._is_ours(item) else _plugin_import.get()
            if importing:
                self._import_room()  # first, so that a name of ours is seen to be taken
            entry = Entry(
                name=name,
                item=item,
                config=config or getattr(item, "Config", NoOptions),
                label=label or name,
                aliases=aliases,
                origin=importing.origin if importing else None,
                numerics=numerics,
            )
            self._add(entry, importing.undo if importing else contextlib.ExitStack())
            return item

        return decorate

    def register_family(
        self, prefix: str
    ) -> Callable[[Callable[[str], tuple[str, Item]]], Callable[[str], tuple[str, Item]]]:
        """Return a decorator that registers what makes the plug-ins called `prefix:name`.

        Its argument takes such a name to the canonical one and the plug-in, or raises what a user is told.
        They have no options and are no part of `names`: there may be any number of them.
        """

        def decorate(make: Callable[[str], tuple[str, Item]]) -> Callable[[str], tuple[str, Item]]:
            self._families[prefix] = make
            return make

        return decorate

    def get(self, name: str) -> Entry[Item]:
        """Return the entry called `name` in any of its spellings.

        Raises:
            UsageError: there is none; the hint names the nearest.
        """
        entry = self.find(name)
        if entry is None:
            raise UsageError(
                f"there is no {self.kind} '{name}'.",
                suggestion(name, self._entries, f"{self.kind.capitalize()}s"),
            )
        return entry

    def find(self, name: str) -> Entry[Item] | None:
        """Return the entry called `name` in any of its spellings, if there is one.

        Raises:
            KdctlError: its family has no such member, or cannot tell.
        """
        self._import_room()
        prefix, colon, rest = name.partition(FAMILY_SEPARATOR)
        if colon and prefix in self._families:
            known, item = self._families[prefix](rest)
            full = f"{prefix}{FAMILY_SEPARATOR}{known}"
            return Entry(name=full, item=item, config=NoOptions, label=full, aliases=(), origin=None)
        canonical = self._by_folded_name.get(folded(name))
        return None if canonical is None else self._entries[canonical]

    def names(self) -> list[str]:
        """Return the canonical names, sorted."""
        self._import_room()
        return sorted(self._entries)

    def entries(self) -> list[Entry[Item]]:
        """Return all entries, by name."""
        return [self._entries[name] for name in self.names()]

    def _is_ours(self, item: Item) -> bool:
        return f"{getattr(item, '__module__', '')}.".startswith(f"{self._room}.")

    def _add(self, entry: Entry[Item], undo: contextlib.ExitStack) -> None:
        for earlier in [known for known in self._entries.values() if _is_outdated(known, entry)]:
            self._remove(earlier)
            undo.callback(self._insert, earlier)
        for spelling in _spellings(entry):
            owner = self._by_folded_name.get(spelling)
            if owner is not None:
                raise UsageError(
                    f"the {self.kind} '{entry.name}' is registered twice: '{owner}' has that name already.",
                    "give one of them another name.",
                )
        self._require_fitting(entry)
        self._insert(entry)
        undo.callback(self._remove, entry)

    def _require_fitting(self, entry: Entry[Item]) -> None:
        item: Any = entry.item
        if not folded(entry.name):
            raise UsageError(
                f"a {self.kind} is registered as '{entry.name}'.", "name it with letters or digits."
            )
        lacking = [name for name in self._needs if not hasattr(item, name)]
        if self._base and not (isinstance(item, type) and issubclass(item, self._base)):
            problem, hint = (
                f"is no {self._base.__name__}",
                f"register a class that derives from {_path(self._base)}",
            )
        elif not callable(item):
            problem, hint = "cannot be called", "register a class or a function"
        elif lacking:
            problem, hint = f"has no {' and no '.join(lacking)}", f"give it {' and '.join(lacking)}"
        else:
            return
        raise UsageError(f"the {self.kind} '{entry.name}' {problem}.", f"{hint}.")

    def _insert(self, entry: Entry[Item]) -> None:
        self._entries[entry.name] = entry
        self._by_folded_name.update(dict.fromkeys(_spellings(entry), entry.name))

    def _remove(self, entry: Entry[Item]) -> None:
        del self._entries[entry.name]
        for spelling in _spellings(entry):
            del self._by_folded_name[spelling]

    def _import_room(self) -> None:
        if self._room_imported:
            return
        self._room_imported = True  # at once: its files may look things up while they are imported
        try:
            package = importlib.import_module(self._room)
            for module in pkgutil.iter_modules(getattr(package, "__path__", []), prefix=f"{self._room}."):
                importlib.import_module(module.name)
        except BaseException:
            self._room_imported = False  # half a room would answer "there is no such method"
            raise


def _path(base: type) -> str:
    return f"{base.__module__}.{base.__qualname__}"


def _spellings(entry: Entry[Any]) -> set[str]:
    return {folded(spelling) for spelling in (entry.name, *entry.aliases, entry.label)}


def _is_outdated(earlier: Entry[Any], entry: Entry[Any]) -> bool:
    """Whether `earlier` came from a former version of the plug-in file that brings `entry` (notebooks)."""
    if earlier.origin is None or entry.origin is None:
        return False
    return earlier.origin.source == entry.origin.source and earlier.origin.sha256 != entry.origin.sha256
