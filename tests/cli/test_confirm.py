from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Kdctl = Callable[..., Any]
WriteRecipe = Callable[..., str]


@pytest.mark.extended
def test_a_sweep_is_confirmed_with_one_command(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe("[grid]\nmethod = ['ce', 'kd']\n")
    assert kdctl(f"sweep {name} --threads 1 --quiet").code == 0
    dry = kdctl("confirm tiny --seeds 2 --dry-run")
    assert (dry.code, dry.out.count("new")) == (0, dry.out.count("seed"))
    answer = kdctl("confirm tiny --seeds 2 --threads 1")
    assert dry.err.splitlines()[0] == answer.err.splitlines()[0] == "4 runs: 0 done, 4 to do"
    assert dry.err.splitlines()[1].startswith("estimated time: about ")
    assert answer.code == 0
    assert "winner of 2" in answer.out
    assert "fresh − original" in answer.out
    assert "kdctl report --sweep tiny-confirm" in answer.err
    rows = json.loads(kdctl("confirm tiny --seeds 2 --threads 1 --format json --quiet").out)["rows"]
    assert {row["fresh_n"] for row in rows} == {2}


def test_a_misspelt_sweep_is_suggested(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    assert kdctl(f"sweep {recipe()} --threads 1 --quiet").code == 0
    kdctl("confirm tny").refused("did you mean 'tiny'", code=1)
    kdctl("confirm tiny --format pdf").refused("pdf", code=2)
