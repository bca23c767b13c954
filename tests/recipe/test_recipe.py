from __future__ import annotations

import time
from pathlib import Path

import pytest

from kdctl.recipe.layers import Layer
from kdctl.recipe.load import override_layer, plugin_paths, preset_layers, read_layers
from kdctl.recipe.recipe import make_recipe

BASE = 'data = "cifar100"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'


def test_a_recipe_is_called_like_its_file_unless_it_says_otherwise(bench) -> None:
    assert bench.recipe(BASE).name == "x"
    assert bench.recipe(f"name = 'mine'\n{BASE}").name == "mine"
    assert bench.recipe(BASE, "name=yours").name == "yours"
    assert bench.recipe(BASE).protocol == "custom"


def test_words_of_the_command_line_make_a_recipe_without_a_file(bench) -> None:
    words = Layer(source="command line", values={"student": "resnet8x4", "method": "ce"})
    recipe = make_recipe([*preset_layers("simkd"), words, override_layer(["seeds=2"])], bench.context.catalog)
    assert (recipe.name, recipe.source, recipe.protocol) == ("command line", "command line", "simkd")
    assert [
        plan.seed for plan in (recipe.plan(recipe.points[0], seed, bench.context) for seed in (0, 1))
    ] == [0, 1]


@pytest.mark.parametrize(
    ("seeds", "wanted"), [("3", (0, 1, 2)), ("1", (0,)), ("[7]", (7,)), ("[2, 0, 1]", (2, 0, 1))]
)
def test_seeds_are_a_number_or_a_list(bench, seeds: str, wanted: tuple[int, ...]) -> None:
    assert bench.recipe(f"seeds = {seeds}\n{BASE}").seeds == wanted


@pytest.mark.parametrize(
    "seeds", ["0", "-1", "[]", "[0, 0]", "[0, -1]", "true", "[true]", "1.0", "[0.5]", "'3'", "[[0]]", "{}"]
)
def test_seeds_that_are_no_different_whole_numbers_are_refused(bench, seeds: str) -> None:
    said = bench.mistake(f"seeds = {seeds}\n{BASE}")
    assert said.startswith("x.toml: seeds = ")
    assert "write seeds = [0, 1, 2], or seeds = 3." in said


def test_students_without_a_teacher_may_have_more_seeds(bench) -> None:
    assert bench.recipe(f"seeds = [4, 1]\nbaseline_seeds = 4\n{BASE}").baseline_seeds == (4, 1, 5, 6)
    assert bench.recipe(f"seeds = 3\n{BASE}").baseline_seeds == (0, 1, 2)


@pytest.mark.parametrize("number", ["1", "true", "[0, 1, 2]", "'3'"])
def test_a_baseline_has_no_fewer_seeds_than_the_others(bench, number: str) -> None:
    said = bench.mistake(f"seeds = 2\nbaseline_seeds = {number}\n{BASE}")
    assert "is not a whole number of at least 2, which all have." in said


@pytest.mark.parametrize(
    ("section", "told"),
    [("[racing]\nmargin = 1.0", "racing"), ("[budget]\ntarget_std_error = 0.1", "budget.target_std_error")],
)
def test_what_decides_from_equal_seeds_takes_no_more_for_the_baseline(bench, section: str, told: str) -> None:
    said = bench.mistake(f"seeds = 4\nbaseline_seeds = 6\n{BASE}\n{section}")
    assert f"baseline_seeds does not go with {told}, which decides from equal seeds of all." in said


def test_a_recipe_without_seeds_has_seed_0(bench) -> None:
    assert bench.recipe(BASE).seeds == (0,)


def test_what_a_recipe_leaves_out_has_a_default(bench) -> None:
    plan = bench.plan(BASE)
    assert (plan.method.name, plan.optimizer.name, plan.schedule.name) == ("simkd", "sgd", "step")
    assert bench.plan('data = "cifar100"\nstudent = "resnet8x4"').method.name == "ce"


@pytest.mark.parametrize("heading", ["name", "description", "protocol"])
def test_headings_are_text(bench, heading: str) -> None:
    assert f"x.toml: {heading} = 3 is not text." in bench.mistake(f"{heading} = 3\n{BASE}")


def test_plugin_files_lie_beside_the_recipe_that_names_them(bench) -> None:
    (bench.folder / "deep").mkdir()
    bench.write("plugins = ['a.py']", "deep/parent.toml")
    recipe = bench.recipe(f"extends = 'deep/parent.toml'\nplugins = ['b.py']\n{BASE}", "plugins=['c.py']")
    found = plugin_paths(recipe.layers)
    assert found == (bench.folder / "deep/a.py", bench.folder / "b.py", Path("c.py"))


def test_plugin_files_lie_beside_a_recipe_of_any_name(bench) -> None:
    layers = read_layers(bench.write(f"plugins = ['a.py']\n{BASE}", "deep/recipe.txt"))
    assert plugin_paths(layers) == (bench.folder / "deep/a.py",)


@pytest.mark.parametrize("plugins", ["'mine.py'", "[3]", "3"])
def test_plugins_are_a_list_of_files(bench, plugins: str) -> None:
    assert "is not a list of files. // write plugins = ['mine.py']." in bench.mistake(
        f"plugins = {plugins}\n{BASE}"
    )


def test_a_mistake_at_one_point_does_not_depend_on_the_others(bench) -> None:
    recipe = bench.recipe(f"{BASE}[grid]\nmethod = ['kd', 'kdd']")
    good, bad = recipe.points
    assert recipe.mistakes_at(good, bench.context.catalog) == []
    assert "there is no method 'kdd'" in recipe.mistakes_at(bad, bench.context.catalog)[0].problem


@pytest.mark.slow
def test_ten_thousand_points_are_planned_in_seconds(bench) -> None:
    rates = [0.001 * number for number in range(1, 101)]
    temperatures = [0.1 * number for number in range(1, 101)]
    grid = f"[grid]\noptimizer.learning_rate = {rates}\nmethod.temperature = {temperatures}"
    began = time.process_time()
    plans = bench.plans(f'extends = "simkd"\nmethod = "kd"\nstudent = "resnet8x4"\nteacher = "vgg8"\n{grid}')
    assert len({plan.key for plan in plans}) == 10_000
    assert time.process_time() - began < 10  # 2.3 s on a slow core
