from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.cli.titles import Titles
from kdctl.recipe.plan import RunPlan

TEMPERATURES = """
[[grid]]
method.name = ["kd"]
method.temperature = [1.0, 2.0, 4.0]
[[grid]]
method.name = ["simkd"]
method.projector = ["bottleneck", "pointwise"]
"""


@pytest.fixture
def plans(recipe: Callable[..., str], tmp_path: Path) -> list[RunPlan]:
    name = recipe(TEMPERATURES)
    with workflows.open_for_planning(tmp_path / "runs") as workspace:
        opened = workflows.open_recipe(tmp_path / name, ["seeds=[0, 1]"], [])
        return list(workflows.plan_sweep(opened, workspace).runs)


def test_no_two_runs_of_a_plan_have_the_same_title(plans: list[RunPlan]) -> None:
    titles = Titles(plans)
    assert len({titles.brief(plan) for plan in plans}) == len(plans) == 10


def test_a_brief_title_says_only_what_differs(plans: list[RunPlan]) -> None:
    titles = Titles(plans)
    assert titles.brief(plans[0]) == "kd · temperature 1 · seed 0"
    assert Titles(plans[:1]).brief(plans[0]) == "kd"


def test_what_tells_runs_apart_that_are_seen_together_comes_first(plans: list[RunPlan]) -> None:
    titles = Titles(plans)
    temperatures = [plan for plan in plans if plan.method.name == "kd" and plan.seed == 0]
    assert titles.brief(temperatures[1], temperatures) == "temperature 2 · kd · seed 0"
    seeds = [plan for plan in plans if plan.configuration == temperatures[0].configuration]
    assert titles.brief(seeds[1], seeds) == "seed 1 · kd · temperature 1"


def test_titles_tell_runs_apart_from_those_that_are_planned_later(plans: list[RunPlan]) -> None:
    titles = Titles(plans[:1])
    titles.learn(plans[1:2])
    assert titles.brief(plans[0]) == "temperature 1"
