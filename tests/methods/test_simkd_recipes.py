"""How recipes write SimKD's options, and what they are told when these contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from kdctl.assembly.catalog import full_catalog
from kdctl.errors import RecipeError
from kdctl.recipe.plan import NUMERICS, SCHEMA, RunPlan
from kdctl.recipe.stored import read_plan


def plan(**options: Any) -> RunPlan:
    tree = {
        "schema": SCHEMA,
        "numerics": NUMERICS,
        "protocol": "",
        "data": "digits",
        "data_fingerprint": "",
        "student": "resnet8",
        "teachers": [],
        "method": {"name": "simkd", **options},
        "optimizer": "sgd",
        "schedule": "constant",
        "engine": {},
        "seed": 0,
    }
    return read_plan(tree, full_catalog())


def test_a_recipe_writes_mixes_and_taps_as_words_or_lists() -> None:
    written = {
        "loss": [["l2", 1.0], ["cosine", 0.5]],
        "taps": [[0.5, 1.0], [1.0, 3.0]],
        "reuse_from": "stage2",
    }
    tree = plan(**written).method.tree()
    assert {name: tree[name] for name in written} == written
    plain = plan().method.tree()
    assert (plain["loss"], plain["taps"], plain["reuse_from"]) == ("l2", "end", 1.0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"simkd_weight": 0}, "probably plain KD"),
        ({"loss": [["kl", 0]]}, "probably plain KD"),
        ({"loss": "l3"}, "should be 'l2', 'kl', 'cosine', 'smooth_l1' or 'logsum'"),
        ({"loss": [["l2", -1]]}, "weight below 0"),
        ({"taps": "biassed"}, "should be 'end', 'biased' or 'all'"),
        ({"taps": [[0.5, 1]]}, "does not end at depth 1.0"),
        ({"reuse_from": 1.5}, "above 0 and at most 1"),
        ({"label_filter": 1}, "should be a valid boolean"),
        ({"ships": "own"}, "own classifier is not trained"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_told_why(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        plan(**options)
