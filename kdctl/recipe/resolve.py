"""From a merged tree to typed, fully explicit values, with all mistakes collected."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kdctl.errors import KdctlError, Mistake, RecipeError, suggestion
from kdctl.recipe.component import COMPONENT, COMPONENT_DEFAULT, Spec
from kdctl.recipe.layers import NAME, Merged
from kdctl.registry import Entry, Registry

Catalog = Mapping[str, Registry[Any]]
"""Kind of plug-in ('method', 'model', ...) -> its registry."""

Record = TypeVar("Record")


@dataclass
class Resolver:
    """Resolves sections of one merged tree; `finish` raises what was found wrong."""

    merged: Merged
    catalog: Catalog
    mistakes: list[Mistake] = field(default_factory=list[Mistake])

    def component(self, kind: str, raw: Any, dotted: str, default: str | None = None) -> Spec | None:
        """Resolve a table (or bare name) that picks a plug-in of `kind`; None after a mistake."""
        table = {NAME: raw} if isinstance(raw, str) else raw
        if table is None:
            table = {}
        if not isinstance(table, Mapping):
            self.wrong(
                dotted, f"{dotted} = {raw!r} is not a table or a name.", f"write {dotted}.name = '...'"
            )
            return None
        name = table.get(NAME, default)
        if not isinstance(name, str):
            self.wrong(
                dotted,
                f"[{dotted}] does not say which {kind}.",
                f"add a line: {NAME} = '...'. {kind.capitalize()}s: {', '.join(self.catalog[kind].names())}.",
            )
            return None
        try:
            entry = self.catalog[kind].get(name)
        except KdctlError as error:
            self.wrong(f"{dotted}.{NAME}", error.problem, error.hint)
            return None
        options = {key: value for key, value in table.items() if key not in (NAME, "plugin_sha256")}
        config = self._options(entry, options, dotted)
        sha256 = entry.origin.sha256 if entry.origin else ""
        return (
            None if config is None else Spec(kind=kind, name=entry.name, options=config, plugin_sha256=sha256)
        )

    def record(self, record: type[Record], raw: Any, dotted: str) -> Record | None:
        """Resolve a table with fixed fields; None after a mistake."""
        table = {} if raw is None else raw
        if not isinstance(table, Mapping):
            self.wrong(dotted, f"{dotted} = {raw!r} is not a table.", f"write it as [{dotted}].")
            return None
        self._unknown(table, (item.name for item in dataclasses.fields(record)), dotted, "")  # type: ignore[arg-type]
        known = {item.name for item in dataclasses.fields(record)}  # type: ignore[arg-type]
        return self._validated(record, {key: value for key, value in table.items() if key in known}, dotted)

    def wrong(self, dotted: str, problem: str, hint: str) -> None:
        """Note a mistake, with the source of the field it is about."""
        self.mistakes.append(Mistake(problem=f"{self.merged.origin(dotted)}: {problem}", hint=hint))

    def finish(self) -> None:
        """Raise all mistakes at once, if there are any."""
        if self.mistakes:
            raise RecipeError(self.mistakes)

    def _options(self, entry: Entry[Any], options: Mapping[str, Any], dotted: str) -> Any:
        fields = {item.name: item for item in dataclasses.fields(entry.config)}
        self._unknown(options, fields, dotted, f" for '{entry.name}'")
        components = {
            name: self.component(
                item.metadata[COMPONENT],
                options.get(name),
                f"{dotted}.{name}",
                item.metadata[COMPONENT_DEFAULT],
            )
            for name, item in fields.items()
            if COMPONENT in item.metadata
        }
        plain = {key: value for key, value in options.items() if key in fields and key not in components}
        config = self._validated(entry.config, plain, dotted)
        if config is None or None in components.values():
            return None
        try:
            return dataclasses.replace(config, **components)
        except ValueError as error:  # a Config may check its fields together
            self.wrong(dotted, f"[{dotted}] {error}", "change one of the values it names.")
            return None

    def _unknown(self, table: Mapping[str, Any], known: Iterable[str], dotted: str, what_for: str) -> None:
        names = list(known)
        for key in table:
            if key not in names:
                self.wrong(
                    f"{dotted}.{key}",
                    f"[{dotted}] has no option '{key}'{what_for}.",
                    suggestion(key, names, "Options"),
                )

    def _validated(self, record: type[Record], plain: Mapping[str, Any], dotted: str) -> Record | None:
        try:
            return _adapter(record).validate_json(json.dumps(plain, default=str), strict=True)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self._invalid(detail, plain, dotted)
            return None

    def _invalid(self, detail: Any, plain: Mapping[str, Any], dotted: str) -> None:
        option = str(detail["loc"][0]) if detail["loc"] else ""
        if detail["type"] == "missing":
            self.wrong(dotted, f"[{dotted}] lacks the option '{option}'.", f"add a line: {option} = ...")
            return
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        value = plain.get(option)
        self.wrong(
            f"{dotted}.{option}",
            f"[{dotted}] {option} = {json.dumps(value, default=str)}: {message}.",
            f"change {dotted}.{option}.",
        )


@functools.cache
def _adapter(record: type[Record]) -> TypeAdapter[Record]:
    return TypeAdapter(record)
