"""From a merged tree to typed, fully explicit values, with all mistakes collected."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kdctl.errors import KdctlError, Mistake, RecipeError, suggestion
from kdctl.recipe.bounds import LARGEST_WHOLE, SMALLEST_REAL, out_of_bounds
from kdctl.recipe.component import (
    COMPONENT,
    COMPONENT_DEFAULT,
    PLUGIN_NUMERICS,
    PLUGIN_SHA256,
    Spec,
    options_of_numbers,
    past_of,
    removed_options,
)
from kdctl.recipe.history import as_declared_now
from kdctl.recipe.layers import NAME, Merged, look_up
from kdctl.recipe.sections import PLUGIN_SECTIONS, STUDENT_WEIGHTS, Catalog, default_name
from kdctl.recipe.values_in_toml import as_written, grid_hint, in_toml, list_hint, number_meant
from kdctl.registry import Entry

Record = TypeVar("Record")

_SCALAR_EXPECTED = ("float_type", "int_type", "bool_type", "string_type", "literal_error", "int_from_float")
"""Types of pydantic's errors where one value was expected."""
_LIST_EXPECTED = ("tuple_type", "list_type")
"""Types where a list was."""
OF_TEACHER = " [teacher]"
"""How the source of what a teacher's training has for itself ends."""


@dataclass
class Resolver:
    """Resolves sections of one merged tree; `finish` raises what was found wrong."""

    merged: Merged
    catalog: Catalog
    source: str
    """Named in mistakes about what no layer says."""
    stored: bool = False
    """The tree is a plan that any version of kdctl wrote, not what a person asks for."""
    mistakes: list[Mistake] = field(default_factory=list[Mistake])

    def sections(self) -> dict[str, Spec | None]:
        """Resolve all sections that pick a plug-in; None stands for one with mistakes."""
        tree = self.merged.tree
        own = {"student": self._without_weights(tree.get("student"))}
        return {
            section: self.component(
                kind, own.get(section, tree.get(section)), section, default_name(section, tree)
            )
            for section, kind in PLUGIN_SECTIONS.items()
        }

    def weights(self) -> str:
        """Return what `student.weights` says; empty if nothing, or nothing that is text."""
        raw = look_up(self.merged.tree, f"student.{STUDENT_WEIGHTS}")
        if raw is None or isinstance(raw, str):
            return raw or ""
        where = f"student.{STUDENT_WEIGHTS}"
        problem = f"{where} = {as_written(raw)} is not text."
        self.wrong(where, problem, f"write {where} = '...': a run's key, or a file of weights.")
        return ""

    def component(self, kind: str, raw: Any, dotted: str, default: str | None = None) -> Spec | None:
        """Resolve a table (or bare name) that picks a plug-in of `kind`; None after a mistake."""
        table = {} if raw is None else {NAME: raw} if isinstance(raw, str) else raw
        if not isinstance(table, Mapping):
            hint = f"write {self.place(dotted)} = '...'."
            problem = f"{dotted} = {as_written(raw)} is not a table or a name."
            self.wrong(dotted, problem, grid_hint(self.place(dotted), raw) or hint)
            return None
        entry = self._entry(kind, table.get(NAME, default), dotted)
        if entry is None:
            return None
        sha256 = entry.origin.sha256 if entry.origin else ""
        if table.get(PLUGIN_SHA256, sha256) != sha256:
            problem = f"[{dotted}] wants another version of the plug-in that brings '{entry.name}'."
            self.wrong(dotted, problem, f"name that version of the file, or leave {PLUGIN_SHA256} out.")
        numerics = table.get(PLUGIN_NUMERICS, 1 if self.stored else entry.numerics)
        if numerics != entry.numerics:
            problem = f"[{dotted}] '{entry.name}' gives other numbers now (its numerics: {numerics}, now"
            hint = "use the version of kdctl that the run's environment.json names."
            self.wrong(dotted, f"{problem} {entry.numerics}).", hint)
        beside = (NAME, PLUGIN_SHA256, PLUGIN_NUMERICS)
        options = {key: value for key, value in table.items() if key not in beside}
        config = self._options(entry, options, dotted)
        if config is None:
            return None
        return Spec(
            kind=kind,
            name=entry.name,
            options=config,
            plugin_sha256=sha256,
            numerics=entry.numerics,
        )

    def record(self, record: type[Record], raw: Any, dotted: str) -> Record | None:
        """Resolve a table with fixed fields; None after a mistake."""
        table = {} if raw is None else raw
        if not isinstance(table, Mapping):
            problem = f"{dotted} = {as_written(raw)} is not a table."
            self.wrong(dotted, problem, f"write it as [{self.place(dotted)}].")
            return None
        if self.stored:
            table = as_declared_now(record, table)
        known = [item.name for item in dataclasses.fields(record)]  # type: ignore[arg-type]
        self._unknown(table, record, dotted, "")
        return self._validated(record, {key: table[key] for key in known if key in table}, dotted)

    def wrong(self, dotted: str, problem: str, hint: str) -> None:
        """Note a mistake, with the source of the field it is about."""
        source = self.merged.origin(dotted) or self.source
        self.mistakes.append(Mistake(problem=f"{source}: {problem}", hint=hint))

    def place(self, dotted: str) -> str:
        """Return where a recipe has a field: what a teacher's training has for itself, below [teacher]."""
        is_teachers = (self.merged.origin(dotted) or "").endswith(OF_TEACHER)
        return f"teacher.{dotted}" if is_teachers else dotted

    def finish(self) -> None:
        """Raise all mistakes at once, if there are any."""
        if self.mistakes:
            raise RecipeError(self.mistakes)

    def _without_weights(self, student: Any) -> Any:
        """Return the student's table with the options of its model alone."""
        if not isinstance(student, Mapping):
            return student
        return {key: value for key, value in student.items() if key != STUDENT_WEIGHTS}

    def _entry(self, kind: str, name: Any, dotted: str) -> Entry[Any] | None:
        if name is None:
            names = ", ".join(self.catalog[kind].names())
            hint = f"add a line: {NAME} = '...'. {kind.capitalize()}s: {names}."
            self.wrong(dotted, f"[{dotted}] does not say which {kind}.", hint)
            return None
        if not isinstance(name, str):
            problem, field = f"[{dotted}] {NAME} = {as_written(name)} is not text.", f"{dotted}.{NAME}"
            place = self.place(field).removesuffix(f".{NAME}")
            self.wrong(field, problem, grid_hint(place, name) or f"write {NAME} = '...'.")
            return None
        try:
            return self.catalog[kind].get(name)
        except KdctlError as error:
            self.wrong(f"{dotted}.{NAME}", f"[{dotted}] {error.problem}", error.hint)
            return None

    def _options(self, entry: Entry[Any], options: Mapping[str, Any], dotted: str) -> Any:
        fields = {item.name: item.metadata for item in dataclasses.fields(entry.config)}
        if self.stored:
            options = as_declared_now(entry.config, options)
        self._unknown(options, entry.config, dotted, f" for '{entry.name}'")
        components = {
            name: self.component(
                metadata[COMPONENT], options.get(name), f"{dotted}.{name}", metadata[COMPONENT_DEFAULT]
            )
            for name, metadata in fields.items()
            if COMPONENT in metadata
        }
        plain = {key: value for key, value in options.items() if key in fields and key not in components}
        config = self._validated(entry.config, plain, dotted)
        if config is None or None in components.values():
            return None
        return dataclasses.replace(config, **components) if components else config

    def _unknown(self, table: Mapping[str, Any], config: type, dotted: str, what_for: str) -> None:
        known = {item.name: past_of(item).formerly for item in dataclasses.fields(config)}
        renamed = {formerly: name for name, formerly in known.items() if formerly}
        for key in table:
            if key in known:
                continue
            hint = suggestion(key, known, "Options")
            if key in renamed:
                hint = f"it is called '{renamed[key]}' now."
            elif key in removed_options(config):
                hint = f"it is gone: all runs do what {key} = {removed_options(config)[key]!r} meant."
            self.wrong(f"{dotted}.{key}", f"[{dotted}] has no option '{key}'{what_for}.", hint)

    def _validated(self, record: type[Record], plain: Mapping[str, Any], dotted: str) -> Record | None:
        fit: dict[str, Any] = {}
        for key, value in plain.items():
            if _is_misplaced(record, key, value):
                fit[key] = 0  # its type is what is wrong, not its size
            elif self._is_fit(key, value, dotted):
                fit[key] = _unsigned_zeros(value)
        try:
            made = _made(record, json.dumps(fit))
        except ValidationError as error:
            # A list has one detail for each bad item, a union one for each type: the first will do.
            details: dict[Any, Any] = {}
            for detail in error.errors(include_url=False):
                before = details.setdefault(detail["loc"][:1], detail)
                if (before["type"], detail["type"]) == ("int_type", "float_type"):  # any number would do
                    details[detail["loc"][:1]] = detail
            for detail in details.values():
                self._invalid(detail, plain, dotted)
            return None
        return made if len(fit) == len(plain) else None

    def _is_fit(self, option: str, value: Any, dotted: str) -> bool:
        """Whether TOML's value is one that a run can have, and JSON can hold."""
        if isinstance(value, Mapping):
            return all([self._is_fit(f"{option}.{key}", item, dotted) for key, item in value.items()])  # noqa: C419 - report all
        if isinstance(value, list):
            return all([self._is_fit(option, item, dotted) for item in value])  # noqa: C419
        if isinstance(value, float) and not math.isfinite(value):
            message = "should be a finite number"
        elif type(value) in (int, float) and (beyond := out_of_bounds(option, value)):
            message = beyond
        elif isinstance(value, (datetime.date, datetime.time)):
            message = "is a date or a time; text stands in quotes"
        else:
            return True
        where = f"{dotted}.{option}"
        self.wrong(where, f"[{dotted}] {option} = {value}: {message}.", f"change {self.place(where)}.")
        return False

    def _invalid(self, detail: Any, plain: Mapping[str, Any], dotted: str) -> None:
        option = str(detail["loc"][0]) if detail["loc"] else ""
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        message = message.removeprefix("Tuple ").removeprefix("String ").partition(" after validation")[0]
        if not option:  # a Config may check its fields together
            self.wrong(dotted, f"[{dotted}] {message}.", "change one of the values it names.")
        elif option in plain and (option,) == detail["loc"] and detail["type"] == "missing":
            pass  # it is there, but was not fit: noted already
        elif option in plain:
            value, where = plain[option], f"{dotted}.{option}"
            shown = str(value) if type(value) is float else in_toml(value)
            problem = f"[{dotted}] {option} = {shown}: {message}."
            wants_one = detail["loc"] == (option,) and detail["type"] in _SCALAR_EXPECTED
            hint = grid_hint(self.place(where), value) if wants_one else ""
            is_number = detail["type"] in ("int_type", "float_type")
            if is_number and isinstance(value, str) and (number := number_meant(value)):
                hint = f"write {option} = {number}."
            if detail["type"] == "string_type" and type(value) in (int, float):
                hint = f"text stands in quotes: {option} = '{value}'."
            if detail["loc"] == (option,) and detail["type"] in _LIST_EXPECTED:
                hint = list_hint(self.place(where), value)
            self.wrong(where, problem, hint or f"change {self.place(where)}.")
        else:
            hint = f"add a line: {option} = ...; on the command line: -o {self.place(dotted)}.{option}=..."
            self.wrong(dotted, f"[{dotted}] lacks the option '{option}'.", hint)


def _is_misplaced(record: type, option: str, value: Any) -> bool:
    """Whether a number that no run can have stands where no number may."""
    is_number = type(value) in (int, float)
    is_unfit = is_number and (not abs(value) <= LARGEST_WHOLE or 0 < abs(value) < SMALLEST_REAL)  # or nan
    return is_unfit and option not in options_of_numbers(record)


def _unsigned_zeros(value: Any) -> Any:
    """Write -0.0 as 0.0: a run does the same with both, and has one key."""
    if isinstance(value, Mapping):
        return {key: _unsigned_zeros(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unsigned_zeros(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value


@functools.lru_cache(maxsize=4096)
def _made(record: type[Record], text: str) -> Record:
    """Build a frozen record from JSON, strictly: no text for a number, no number for a bool."""
    return _adapter(record).validate_json(text, strict=True)


@functools.cache
def _adapter(record: type[Record]) -> TypeAdapter[Record]:
    return TypeAdapter(record)
