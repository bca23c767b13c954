"""What the options of a plug-in mean, read from its `Config`: type, default, range, and the line below."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from kdctl.recipe.component import COMPONENT, COMPONENT_DEFAULT, RANGE, Range

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", types.NoneType: "none"}
_SIGNS = {Gt: ("gt", ">"), Ge: ("ge", ">="), Lt: ("lt", "<"), Le: ("le", "<=")}
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True)
class OptionHelp:
    """One option of a plug-in, in words."""

    name: str
    meaning: str
    """The text below the field in its `Config`; empty where the source cannot be read."""
    values: str
    """Which values it takes: 'number > 0', 'mean or paper'."""
    default: Any
    """A plain value, or the name of a plug-in for a component; None where `required`."""
    tuned: Range | None
    """What `[search]` looks through when it names the option alone."""
    component: str = ""
    """The kind of plug-in that goes here ('projector'); empty for plain values."""
    required: bool = False
    """A recipe must give it: there is no default."""


def options_of(config: type) -> tuple[OptionHelp, ...]:
    """Return the options of a frozen `Config` dataclass in the order of its fields."""
    hints = get_type_hints(config, include_extras=True)
    meanings = _meanings(config)
    return tuple(
        _option(field, hints[field.name], meanings.get(field.name, ""))
        for field in dataclasses.fields(config)
    )


def paragraphs(text: str | None) -> tuple[str, str]:
    """Return the first line of a docstring, and the rest without its indentation."""
    first, _, rest = inspect.cleandoc(text or "").partition("\n")
    return first, rest.strip("\n")


def _option(field: dataclasses.Field[Any], hint: Any, meaning: str) -> OptionHelp:
    kind = field.metadata.get(COMPONENT, "")
    default: Any = field.metadata[COMPONENT_DEFAULT] if kind else field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return OptionHelp(
        name=field.name,
        meaning=meaning,
        values=f"{_article(kind)} {kind}" if kind else " or ".join(dict.fromkeys(_words(hint))),
        default=None if default is dataclasses.MISSING else default,
        tuned=field.metadata.get(RANGE),
        component=kind,
        required=default is dataclasses.MISSING,
    )


def _words(hint: Any) -> Iterator[str]:
    """Yield the alternatives of a type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = " and ".join(_bounds(arguments[1:]))
        for words in _words(arguments[0]):
            yield f"{words} {bounds}".rstrip()
    elif origin is Literal:
        yield from map(str, arguments)
    elif origin in (types.UnionType, typing.Union):
        for argument in arguments:
            yield from _words(argument)
    elif origin in (tuple, list):
        items = [argument for argument in arguments if argument is not Ellipsis]
        nested = any(get_origin(item) in (tuple, list) for item in items)
        inner = ["lists"] if nested else [_several(words) for item in items for words in _words(item)]
        yield f"list of {' and '.join(dict.fromkeys(inner))}"
    else:
        yield _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _several(words: str) -> str:
    """Put the noun of a value's words into the plural."""
    return re.sub(r"\bnumber\b", "numbers", words)


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    for item in metadata:
        for kind, (attribute, sign) in _SIGNS.items():
            if isinstance(item, kind):
                yield f"{sign} {getattr(item, attribute):g}"


@functools.lru_cache(maxsize=1024)
def _meanings(config: type) -> dict[str, str]:
    """Return the text below each field, those of parent classes included."""
    found: dict[str, str] = {}
    for parent in reversed(config.__mro__):
        if dataclasses.is_dataclass(parent):
            found |= dict(_documented_fields(parent))
    return found


def _documented_fields(record: type) -> Iterator[tuple[str, str]]:
    try:
        source = textwrap.dedent(inspect.getsource(record))
    except (OSError, TypeError):  # typed into a console, or its file is gone
        return
    definition = ast.parse(source).body[0]
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for field, below in itertools.pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield field.target.id, _BLANKS.sub(" ", str(below.value.value)).strip()
