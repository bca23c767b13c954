from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

Kdctl = Callable[..., Any]


@pytest.mark.parametrize(
    ("what", "name"),
    [("methods", "simkd"), ("projectors", "bottleneck"), ("datasets", "cifar100"), ("figures", "bars")],
)
def test_what_there_is_is_listed_as_text_and_json(kdctl: Kdctl, what: str, name: str) -> None:
    text = kdctl(f"list {what}")
    assert (text.code, text.err) == (0, "")
    tree = json.loads(kdctl(f"list {what} --format json").out)
    assert name in [row["name"] for row in tree["rows"]]
    assert len(text.out.splitlines()) == 1 + len(tree["rows"])  # not folded, whatever its length
    assert "\x1b" not in text.out
    assert not any(line.endswith(" ") for line in text.out.splitlines())


@pytest.mark.extended
def test_models_are_listed_with_their_parameters(kdctl: Kdctl) -> None:
    text = kdctl("list models").out
    assert re.search(r"^resnet8x4 +ResNet-8x4 +1,233,540 +256x8x8 +—$", text, re.MULTILINE)
    for_ten = json.loads(kdctl("list models --num-classes 10 --format json").out)["rows"]
    parameters = {row["name"]: row["parameters"] for row in for_ten}
    assert parameters["resnet8x4"] == 1_233_540 - 90 * 257


def test_runs_and_sweeps_are_listed_once_there_are_some(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    kdctl("list runs").refused("no database", "kdctl sweep quickstart", code=1)
    kdctl(f"train {recipe()} --method ce --threads 1 --quiet")
    assert kdctl("list sweeps").err == "nothing yet\n"
    kdctl(f"sweep {recipe()} --threads 1 --quiet")
    (row,) = json.loads(kdctl("list sweeps --format json").out)["rows"]
    assert (row["sweep"], row["finished"], row["of"]) == ("tiny", 2, 2)
    assert row["description"] == "three runs and a teacher"
    runs = json.loads(kdctl("list runs --format json").out)["rows"]
    assert [(run["method"], run["state"], run["epochs"], run["of"]) for run in runs] == [
        ("ce", "finished", 1, 1),
        ("ce", "finished", 1, 1),
        ("simkd", "finished", 1, 1),
    ]
    assert len(kdctl("list runs").out.splitlines()) == 4
