"""What options mean, read from the classes that declare them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt

from kdctl.assembly.catalog import full_catalog
from kdctl.recipe.component import component, tunable
from kdctl.recipe.documentation import options_of, paragraphs


@dataclass(frozen=True, kw_only=True)
class Parent:
    rate: Annotated[float, Gt(0)] = tunable(0.1, 0.01, 1.0, log=True)
    """How fast."""


@dataclass(frozen=True, kw_only=True)
class Child(Parent):
    steps: tuple[Annotated[int, Ge(1)], ...] = (1, 2)
    """When."""
    size: int
    mode: Literal["a", "b"] | None = None
    pairs: str | tuple[tuple[str, float], ...] = "l2"
    names: list[str] = field(default_factory=lambda: ["x"])
    part: object = component("projector", "linear")
    """Goes here."""


def test_each_option_has_its_meaning_values_default_and_range() -> None:
    options = {option.name: option for option in options_of(Child)}
    assert [(option.name, option.values) for option in options.values()] == [
        ("rate", "number > 0"),
        ("steps", "list of whole numbers >= 1"),
        ("size", "whole number"),
        ("mode", "a or b or none"),
        ("pairs", "text or list of lists"),
        ("names", "list of text"),
        ("part", "a projector"),
    ]
    assert [option.meaning for option in options.values()] == [
        "How fast.",
        "When.",
        "",
        "",
        "",
        "",
        "Goes here.",
    ]
    assert [option.default for option in options.values()] == [0.1, (1, 2), None, None, "l2", ["x"], "linear"]
    assert [option.name for option in options.values() if option.required] == ["size"]
    assert options["rate"].tuned is not None
    assert (options["rate"].tuned.low, options["rate"].tuned.high, options["rate"].tuned.log) == (
        0.01,
        1.0,
        True,
    )


def test_every_option_of_every_plugin_says_what_it_means() -> None:
    silent = [
        f"{kind} {entry.name}: {option.name}"
        for kind, registry in full_catalog().items()
        for entry in registry.entries()
        for option in options_of(entry.config)
        if not option.meaning
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ("", "")),
        ("One line.", ("One line.", "")),
        ("First.\n\n    More.\n      In.\n    ", ("First.", "More.\n  In.")),
    ],
)
def test_a_docstring_is_parted_into_its_first_line_and_the_rest(text: str, expected: tuple[str, str]) -> None:
    assert paragraphs(text) == expected
