from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kdctl.assembly.catalog import full_catalog
from kdctl.recipe.component import Spec
from kdctl.recipe.imported import IMAGENET, ImportedPlan, is_imported, read_imported, trained_normalisation
from kdctl.recipe.layers import Merged
from kdctl.recipe.resolve import Resolver


def spec(kind: str, **table: Any) -> Spec:
    resolver = Resolver(Merged(tree={}), full_catalog(), "test")
    found = resolver.component(kind, table, kind)
    resolver.finish()
    assert found is not None
    return found


@pytest.fixture
def plan() -> ImportedPlan:
    return ImportedPlan(
        model=spec("model", name="resnet8"),
        data=spec("dataset", name="digits", size=8),
        data_fingerprint="f" * 64,
        weights_sha256="a" * 64,
        source="resnet8.pth",
        normalisation=IMAGENET,
    )


def test_a_plan_is_read_back_from_its_tree(plan: ImportedPlan) -> None:
    assert is_imported(plan.tree())
    assert read_imported(plan.tree(), full_catalog()) == plan
    assert trained_normalisation(plan.tree()) == IMAGENET
    bare = dataclasses.replace(plan, normalisation=None)
    assert read_imported(bare.tree(), full_catalog()) == bare
    assert trained_normalisation(bare.tree()) is None


def test_a_plan_has_the_sections_of_every_stored_plan(plan: ImportedPlan) -> None:
    tree = plan.tree()
    for section in ("data", "student", "method", "optimizer", "schedule"):
        assert tree[section]["name"]
    assert tree["teachers"] == []
    assert tree["schedule"]["epochs"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "b" * 64},
        {"normalisation": None},
        {"data_fingerprint": "e" * 64},
        {"model": "wider"},
        {"data": "smaller"},
    ],
)
def test_the_key_changes_with_what_decides_the_numbers(plan: ImportedPlan, change: dict[str, Any]) -> None:
    specs = {"wider": spec("model", name="resnet8x4"), "smaller": spec("dataset", name="digits", size=16)}
    values = {
        name: specs.get(value, value) if isinstance(value, str) else value for name, value in change.items()
    }
    assert dataclasses.replace(plan, **values).key != plan.key


def test_where_a_file_came_from_is_no_part_of_the_key(plan: ImportedPlan) -> None:
    assert dataclasses.replace(plan, source="https://example.org").key == plan.key
    assert plan.planned().key == plan.planned().configuration == plan.key
