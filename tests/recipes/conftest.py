"""Recipes that come with kdctl, planned with one seed; no data of CIFAR are needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.workflows.sweeping import SweepPlan

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("**/*.toml"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a `recipe` with every one in `recipes/`."""
    if "recipe" in metafunc.fixturenames:
        metafunc.parametrize("recipe", RECIPES)


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SweepPlan]:
    """Plan a recipe by its name, each once; also in its scaled-down form."""
    folder = tmp_path_factory.mktemp("workspace")

    @functools.cache
    def planned(name: str, *, smoke: bool = False) -> SweepPlan:
        recipe = workflows.open_recipe(FOLDER / name, ["seeds=1"], smoke=smoke)
        with workflows.open_for_planning(folder / "runs", folder / "data", may_fetch=False) as workspace:
            return workflows.plan_sweep(recipe, workspace)

    return planned
