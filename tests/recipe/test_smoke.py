"""The scaled-down form of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdctl.errors import RecipeError
from kdctl.recipe.load import override_layer, read_layers, smoke_layer
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe, make_recipe

RECIPE = """
    extends = "simkd"
    name = "long"
    seeds = [3, 4]
    student = "resnet8x4"
    data.samples_per_class = 300
    [teacher]
    name = "resnet32x4"
    schedule = { name = "cosine", epochs = 500 }
    [grid]
    method = ["kd", "simkd"]
    schedule.epochs = [60, 120]
"""

Smoke = Callable[..., Recipe]


@pytest.fixture
def smoke(bench: Any) -> Smoke:
    def make(text: str, *overrides: str) -> Recipe:
        top = override_layer(overrides)
        layers = read_layers(bench.write(text))
        return make_recipe([*layers, smoke_layer(layers, top), top], bench.context.catalog)

    return make


def plans(bench: Any, recipe: Recipe) -> list[RunPlan]:
    return [recipe.plan(point, seed, bench.context) for seed in recipe.seeds for point in recipe.points]


def test_runs_and_teachers_become_short_whatever_grid_and_teacher_say(bench, smoke: Smoke) -> None:
    found = plans(bench, smoke(RECIPE))
    everything = [*found, *(run.teachers[0].plan for run in found)]
    assert {run.epochs for run in everything} == {2}
    assert {(run.data.options.num_classes, run.data.options.samples_per_class) for run in everything} == {
        (4, 16)
    }
    assert {run.seed for run in found} == {0}
    assert found[0].teachers[0].plan.schedule.name == "cosine"  # all else is the recipe's


def test_it_is_kept_apart_from_the_recipe(bench, smoke: Smoke) -> None:
    small, whole = smoke(RECIPE), bench.recipe(RECIPE)
    assert (small.name, small.protocol) == ("long-smoke", "smoke")
    assert small.source == whole.source
    assert not {run.key for run in plans(bench, small)} & {run.key for run in plans(bench, whole)}


def test_a_recipe_without_a_name_is_named_after_its_file(smoke: Smoke) -> None:
    assert smoke("student = 'resnet8'\ndata = 'cifar100'").name == "x-smoke"


def test_the_command_line_scales_it_otherwise_teachers_too(bench, smoke: Smoke) -> None:
    recipe = smoke(RECIPE, "schedule.epochs=1", "data={num_classes=7}", "seeds=2", "name=other")
    (run, *_) = plans(bench, recipe)
    assert (run.epochs, run.teachers[0].plan.epochs, run.data.options.num_classes) == (1, 1, 7)
    assert (recipe.seeds, recipe.name) == ((0, 1), "other")
    assert run.data.options.samples_per_class == 16


def test_a_recipe_says_itself_what_is_scaled_down_besides(bench, smoke: Smoke) -> None:
    text = RECIPE + "\n[smoke]\ndata = { padding = 1, batch_size = 8 }\nschedule.warmup_epochs = 1\n"
    (run, *_) = plans(bench, smoke(text))
    assert (run.data.options.padding, run.data.options.batch_size) == (1, 8)
    assert run.schedule.options.warmup_epochs == 1
    assert run.data.options.samples_per_class == 16
    (whole, *_) = plans(bench, bench.recipe(text))
    assert (whole.data.options.padding, whole.data.options.batch_size) == (4, 64)


def test_the_command_line_wins_over_what_a_recipe_scales_down(bench, smoke: Smoke) -> None:
    (run, *_) = plans(bench, smoke(RECIPE + "\n[smoke]\ndata.padding = 1\n", "data.padding=2"))
    assert run.data.options.padding == 2


@pytest.mark.parametrize("table", ["smoke = 3", "[smoke]\nseeds = 2", "[smoke]\ndata = 3"])
def test_what_is_no_section_of_a_run_is_refused(bench, table: str) -> None:
    text = f"student = 'resnet8'\ndata = 'cifar100'\n{table}" if "=" in table else table
    with pytest.raises(RecipeError, match="smoke"):
        bench.recipe(text)
