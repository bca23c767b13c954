"""The page of methods names every one, with what building it gives."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from kdctl.protocols.distiller import methods


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("methods_table")


def test_every_method_has_its_words(script: ModuleType) -> None:
    own = {entry.name for entry in methods.entries() if entry.origin is None}
    assert set(script.WORDS) == own


@pytest.mark.extended
def test_the_table_is_what_building_each_method_gives(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    now = script.written(page, script.costs_in(page), script.conditions_in(page))
    assert now == page, "run: python docs/methods_table.py"


@pytest.mark.extended
def test_costs_are_kept_while_the_rest_is_written(script: ModuleType) -> None:
    cost = script.Cost(time="1.50", memory="120")
    page = f"{script.BEGIN}\n{script.table({'kd': cost}, 'two rounds.')}\n{script.END}\n"
    assert script.costs_in(page)["kd"] == cost
    assert script.costs_in(page)["fitnet"] == script.Cost()
    assert script.conditions_in(page) == "two rounds."
    assert script.written(page, script.costs_in(page), script.conditions_in(page)) == page


def test_papers_are_read_from_docstrings(script: ModuleType) -> None:
    assert script.paper_of("kd") == "[1503.02531](https://arxiv.org/abs/1503.02531)"
    assert script.paper_of("srrl") == "ICLR 2021"
    assert script.paper_of("ce") == "—"
