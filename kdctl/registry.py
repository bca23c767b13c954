"""Registries: how a plug-in file makes itself known under the name a recipe writes.

A registry imports its room on the first look-up, so that a plug-in file needs no list to be
edited; names are matched without case, dashes, underscores and spaces, so that the spellings of
papers (`ResNet-8x4`) find the canonical one (`resnet8x4`).
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import pkgutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from kdctl.errors import UsageError, suggestion

Item = TypeVar("Item")


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

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.item.__doc__ or "").strip().partition("\n")[0]


_origin: contextvars.ContextVar[Origin | None] = contextvars.ContextVar("origin", default=None)


@contextlib.contextmanager
def registering_from(origin: Origin) -> Generator[None]:
    """Mark all registrations made inside as coming from a plug-in."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


def folded(name: str) -> str:
    """Return the form in which names are compared."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


class Registry(Generic[Item]):
    """All plug-ins of one kind, by name."""

    def __init__(self, kind: str, room: str) -> None:
        """Make a registry of `kind` (singular: 'method') whose files live in package `room`."""
        self.kind = kind
        self._room = room
        self._room_imported = False
        self._entries: dict[str, Entry[Item]] = {}
        self._by_folded_name: dict[str, str] = {}

    def register(
        self,
        name: str,
        *,
        config: type | None = None,
        label: str | None = None,
        aliases: tuple[str, ...] = (),
    ) -> Callable[[Item], Item]:
        """Return a decorator that registers its argument under `name` and `aliases`.

        The options are `config`, else the item's own `Config` class, else none.

        Raises:
            UsageError: the name or an alias is taken by another plug-in.
        """

        def decorate(item: Item) -> Item:
            entry = Entry(
                name=name,
                item=item,
                config=config or getattr(item, "Config", NoOptions),
                label=label or name,
                aliases=aliases,
                origin=_origin.get(),
            )
            self._add(entry)
            return item

        return decorate

    def get(self, name: str) -> Entry[Item]:
        """Return the entry called `name` in any of its spellings.

        Raises:
            UsageError: there is none; the hint names the nearest.
        """
        self._import_room()
        canonical = self._by_folded_name.get(folded(name))
        if canonical is None:
            spellings = [*self._entries]
            raise UsageError(
                f"there is no {self.kind} '{name}'.",
                suggestion(name, spellings, f"{self.kind.capitalize()}s"),
            )
        return self._entries[canonical]

    def names(self) -> list[str]:
        """Return the canonical names, sorted."""
        self._import_room()
        return sorted(self._entries)

    def entries(self) -> list[Entry[Item]]:
        """Return all entries, by name."""
        return [self._entries[name] for name in self.names()]

    def _add(self, entry: Entry[Item]) -> None:
        spellings = {folded(spelling) for spelling in (entry.name, *entry.aliases, entry.label)}
        self._forget_earlier_version(entry)
        for spelling in spellings:
            owner = self._by_folded_name.get(spelling)
            if owner is not None:
                raise UsageError(
                    f"the {self.kind} '{entry.name}' is registered twice: '{owner}' has that name already.",
                    "give one of them another name.",
                )
        self._entries[entry.name] = entry
        self._by_folded_name.update(dict.fromkeys(spellings, entry.name))

    def _forget_earlier_version(self, entry: Entry[Item]) -> None:
        """Let a plug-in file that was edited replace what it registered before (notebooks)."""
        earlier = self._entries.get(entry.name)
        if earlier is None or earlier.origin is None or entry.origin is None:
            return
        if earlier.origin.source == entry.origin.source:
            del self._entries[entry.name]
            self._by_folded_name = {k: v for k, v in self._by_folded_name.items() if v != entry.name}

    def _import_room(self) -> None:
        if self._room_imported:
            return
        self._room_imported = True
        token = _origin.set(None)  # a plug-in may look things up: our own files are not its own
        try:
            package = importlib.import_module(self._room)
            for module in pkgutil.iter_modules(getattr(package, "__path__", []), prefix=f"{self._room}."):
                importlib.import_module(module.name)
        finally:
            _origin.reset(token)
