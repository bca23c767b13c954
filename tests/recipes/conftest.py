"""Recipes that come with kdctl, planned; no data of CIFAR are needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly import planning
from kdctl.assembly.data import DataLibrary
from kdctl.protocols.dataset import BalancedForm
from kdctl.readers.selection import Counts, expected_counts
from kdctl.recipe.component import Spec
from kdctl.workflows.sweep_plan import SweepPlan

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("**/*.toml"))


FORMS = {
    "streamedfolder": BalancedForm(num_classes=1000, input_size=224, train_per_class=1281, test_per_class=50),
    "tinyimagenet": BalancedForm(num_classes=200, input_size=64, train_per_class=500, test_per_class=50),
}
"""Of data sets that are read to count their images; recipes mean ImageNet by the first."""


class UnreadLibrary(DataLibrary):
    """Plans need a fingerprint of their data; that of CIFAR-10 is not known without having them."""

    def counts(self, spec: Spec) -> Counts:
        """Return how many images there would be."""
        form = FORMS.get(spec.name)
        return expected_counts(form, spec.options) if form else super().counts(spec)

    def fingerprint(self, spec: Spec) -> str:
        """Return something that stands for it."""
        return f"pixels of {spec.name}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a `recipe` with every one in `recipes/`; with most of `any_recipe` it is slow."""
    if "recipe" in metafunc.fixturenames:
        metafunc.parametrize("recipe", RECIPES)
    if "any_recipe" in metafunc.fixturenames:
        sampled = [
            pytest.param(name, marks=pytest.mark.slow if place % 10 else ())
            for place, name in enumerate(RECIPES)
        ]
        metafunc.parametrize("any_recipe", sampled)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> DataLibrary:
    """Return what plans ask for the data sets' fingerprints and sizes."""
    return UnreadLibrary(tmp_path_factory.mktemp("data"), may_fetch=False)


@pytest.fixture(scope="session")
def plan(
    library: DataLibrary, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., SweepPlan]]:
    """Plan a recipe by its name, each once; also in its scaled-down form.

    What recipes have in common, such as a table and its columns, is built once for all of them.
    """
    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def planned(name: str, *, smoke: bool = False) -> SweepPlan:
        recipe = workflows.open_recipe(FOLDER / name, smoke=smoke)
        with workflows.open_workspace(folder, library) as workspace:
            return workflows.plan_sweep(recipe, workspace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "Structures", functools.cache(planning.Structures))
        yield planned
