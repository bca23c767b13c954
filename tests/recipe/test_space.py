from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdctl.errors import RecipeError
from kdctl.recipe.component import Range
from kdctl.recipe.layers import Merged
from kdctl.recipe.resolve import Resolver
from kdctl.recipe.space import Point, grid_points

BASE = 'data = "cifar100"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'
AXES = st.dictionaries(
    st.sampled_from(["method.temperature", "optimizer.momentum", "schedule.epochs"]),
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    min_size=1,
)


def points(bench, grid: str) -> list[dict[str, Any]]:
    return [dict(point.values) for point in bench.recipe(BASE + grid).points]


@given(AXES)
def test_a_block_gives_every_combination_once(axes: dict[str, list[int]]) -> None:
    found = grid_points(axes, Resolver(Merged(tree={}), {}, "here"))
    assert len(found) == math.prod(len(values) for values in axes.values())
    assert len({repr(point) for point in found}) == len(found)
    assert all(point.values[field] in axes[field] for point in found for field in axes)


@given(AXES)
def test_a_block_given_twice_adds_nothing(axes: dict[str, list[int]]) -> None:
    resolver = Resolver(Merged(tree={}), {}, "here")
    assert grid_points([axes, axes], resolver) == grid_points(axes, resolver)


def test_the_first_field_is_outermost(bench) -> None:
    assert points(bench, "[grid]\nmethod = ['kd', 'simkd']\noptimizer.learning_rate = [0.1, 0.01]") == [
        {"method": "kd", "optimizer.learning_rate": 0.1},
        {"method": "kd", "optimizer.learning_rate": 0.01},
        {"method": "simkd", "optimizer.learning_rate": 0.1},
        {"method": "simkd", "optimizer.learning_rate": 0.01},
    ]


PAIRS = "together = [{ teacher = 'vgg13', student = 'vgg8' }, { student = 'resnet8' }]"


def test_what_goes_together_is_one_axis_outside_all_others(bench) -> None:
    assert points(bench, f"[grid]\nmethod = ['kd', 'simkd']\n{PAIRS}") == [
        {"teacher": "vgg13", "student": "vgg8", "method": "kd"},
        {"teacher": "vgg13", "student": "vgg8", "method": "simkd"},
        {"student": "resnet8", "method": "kd"},
        {"student": "resnet8", "method": "simkd"},
    ]
    plans = bench.plans(f"{BASE}[grid]\n{PAIRS}")
    assert [(plan.teachers[0].name, plan.student.name) for plan in plans] == [
        ("vgg13", "vgg8"),
        ("resnet32x4", "resnet8"),
    ]


def test_a_pair_on_the_grid_is_the_run_that_the_pair_alone_is(bench) -> None:
    pair = "teacher = 'vgg13'\nstudent = 'vgg8'\n"
    alone = bench.plan(f"data = 'cifar100'\n{pair}")
    assert bench.plans(f"{BASE}[grid]\n{PAIRS}")[0].key == alone.key


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("together = []", "[grid] together = [] is not a list of tables. // write together = [{ teacher"),
        ("together = [{}]", "is not a list of tables."),
        ("together = ['vgg8']", "is not a list of tables."),
        ("together = { student = ['vgg8'] }", "[grid] together.student is not a field of a run."),
        ("together = [{ seed = 3 }]", "[grid] seed is not a field of a run."),
        (f"{PAIRS}\nstudent = ['vgg8']", "has student both in together and as a list of its own."),
    ],
)
def test_mistakes_in_what_goes_together_are_told(bench, line: str, said: str) -> None:
    assert said in bench.mistake(f"{BASE}[grid]\n{line}")


def test_blocks_are_joined_in_order_each_point_once(bench) -> None:
    grid = """
        [[grid]]
        method = ["ce", "kd"]
        [[grid]]
        method = ["simkd", "kd"]
        [[grid]]
        method = ["kd"]
        optimizer.learning_rate = [0.1]
    """
    assert points(bench, grid) == [
        {"method": "ce"},
        {"method": "kd"},
        {"method": "simkd"},
        {"method": "kd", "optimizer.learning_rate": 0.1},
    ]


def test_a_point_may_be_a_whole_section(bench) -> None:
    one, two, three = bench.plans(f"{BASE}[grid]\nmethod = [{{ name='kd', temperature=2 }}, 'simkd', 'kd']")
    weights = {"kd_weight": 1.0, "ce_weight": 1.0, "standardise": False}
    assert one.method.tree() == {"name": "kd", "temperature": 2.0, **weights}
    assert two.method.name == "simkd"
    assert three.method.options.temperature == 4.0


def test_a_value_may_be_a_list(bench) -> None:
    plans = bench.plans(f"{BASE}[grid]\nschedule.milestones = [[10], [10, 20]]")
    assert [plan.schedule.options.milestones for plan in plans] == [(10,), (10, 20)]


def test_a_nested_plugin_may_be_an_axis(bench) -> None:
    plans = bench.plans(f"{BASE}[grid]\nmethod.projector.reduction = [1, 4]")
    assert [plan.method.options.projector.options.reduction for plan in plans] == [1, 4]


def test_a_grid_point_wins_over_the_command_line(bench) -> None:
    text = f"{BASE}[[grid]]\noptimizer.learning_rate = [0.1, 0.2]\n[[grid]]\nmethod = ['ce']"
    plans = bench.plans(text, "optimizer.learning_rate=3", "optimizer.momentum=0.5")
    assert [plan.optimizer.options.learning_rate for plan in plans] == [0.1, 0.2, 3]
    assert {plan.optimizer.options.momentum for plan in plans} == {0.5}


@pytest.mark.parametrize(
    ("grid", "problem"),
    [
        ("[grid]", "[grid] is empty."),
        ("grid = []", "[grid] is empty."),
        ("grid = 3", "grid = 3 is not a table."),
        ("[grid.method]", "[grid] is empty."),
        ("[[grid]]\nmethod = ['kd']\n[[grid]]", "[grid] is empty."),
        ("[grid]\nmethod = []", "[grid] method = [] has no list of values."),
        ("[grid]\nmethod = 'kd'", "[grid] method = 'kd' has no list of values."),
        ("[grid]\nseeds = [[0], [1]]", "[grid] seeds is not a field of a run."),
        ("[grid]\noptimiser.momentum = [0.5]", "[grid] optimiser.momentum is not a field of a run."),
    ],
)
def test_a_grid_without_points_is_refused(bench, grid: str, problem: str) -> None:
    assert bench.mistake(BASE + grid).startswith(f"x.toml: {problem}")


def test_all_axes_of_all_blocks_are_checked(bench) -> None:
    said = bench.mistakes(f"{BASE}[[grid]]\nmethod = []\nseeds = [1]\n[[grid]]\nstudents = ['a']")
    assert ["method" in said[0], "seeds" in said[1], "students" in said[2]] == [True, True, True]


def test_an_unknown_option_on_an_axis_is_told_once_with_its_file(bench) -> None:
    recipe = bench.recipe(f"{BASE}[grid]\noptimizer.lr = [0.1, 0.2]")
    said = {
        mistake.problem
        for point in recipe.points
        for mistake in recipe.mistakes_at(point, bench.context.catalog)
    }
    assert [problem.partition("x.toml ")[2] for problem in said] == [
        "[grid]: [optimizer] has no option 'lr' for 'sgd'."
    ]


def test_grid_and_search_exclude_each_other(bench) -> None:
    said = bench.mistake(f"{BASE}grid.method = ['kd']\nsearch.space.optimizer.learning_rate = {{}}")
    assert "either [grid] or [search]. // leave one of them out." in said


def test_a_search_has_options_and_a_space(bench) -> None:
    search = bench.recipe(
        BASE
        + """
        method = "kd"
        [search]
        trials = 7
        sampler = "random"
        metric = "test"
        [search.space]
        optimizer.learning_rate = {}
        method.temperature = { low = 1, high = 8 }
        method.kd_weight = { low = 0.5, high = 2, log = true }
        student = ["resnet8x4", "wrn_16_2"]
        """
    ).search
    assert search is not None
    assert (search.trials, search.sampler, search.metric, search.batch) == (7, "random", "test", 1)
    assert search.space == {
        "optimizer.learning_rate": Range(low=0.001, high=0.5, log=True),
        "method.temperature": Range(low=1, high=8),
        "method.kd_weight": Range(low=0.5, high=2, log=True),
        "student": ("resnet8x4", "wrn_16_2"),
    }
    temperature = search.space["method.temperature"]
    assert isinstance(temperature, Range)
    assert isinstance(temperature.low, int)  # so that only whole numbers are tried
    assert search.probes()[0] == Point(
        values={
            "optimizer.learning_rate": 0.001,
            "method.temperature": 1,
            "method.kd_weight": 0.5,
            "student": "resnet8x4",
        }
    )


def test_an_empty_range_is_the_fields_own_also_of_what_is_silently_picked(bench) -> None:
    text = f"{BASE}optimizer = 'AdamW'\n[search.space]\noptimizer.learning_rate = {{}}"
    assert bench.recipe(text).search.space == {
        "optimizer.learning_rate": Range(low=1e-5, high=1e-2, log=True)
    }
    text = f"{BASE}[search.space]\noptimizer.weight_decay = {{}}"
    assert bench.recipe(text).search.space == {"optimizer.weight_decay": Range(low=1e-5, high=1e-2, log=True)}


@pytest.mark.parametrize("names", ["['kd']", "['KD']", "['kd', 'dist']"])
def test_an_empty_range_is_that_of_what_the_search_picks(bench, names: str) -> None:
    text = f"{BASE}method = 'simkd'\n[search.space]\nmethod.name = {names}\nmethod.temperature = {{}}"
    assert bench.recipe(text).search.space["method.temperature"] == Range(low=1.0, high=20.0, log=True)


def test_an_option_has_no_range_where_those_to_choose_from_disagree(bench) -> None:
    text = f"{BASE}[search.space]\noptimizer.name = ['sgd', 'adamw']\noptimizer.learning_rate = {{}}"
    assert "optimizer.learning_rate has no range of its own" in bench.mistake(text)


@pytest.mark.parametrize("table", ["[search.space]\n{} = [1, 2]", "[grid]\n{} = [1, 2]"])
@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("epochs", "write schedule.epochs."),
        ("temperature", "write method.temperature."),
        ("teachers", "fields start with one of: data"),
    ],
)
def test_a_field_without_its_section_is_told_where_it_belongs(
    bench, table: str, field: str, hint: str
) -> None:
    said = bench.mistake(BASE + table.format(field))
    assert f"{field} is not a field of a run. // {hint}" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optimizer.momentum = {}", "optimizer.momentum has no range of its own. // write { low = ..., high"),
        ("optimizer.momentum = {}", "optimizer.learning_rate, optimizer.weight_decay."),
        ("optimizer.lr = {}", "optimizer.lr has no range of its own."),
        ("method.temperature = 3", "method.temperature = 3 is neither a range nor a list of choices."),
        ("method.temperature = []", "method.temperature = [] is neither a range nor a list of choices."),
        ("seeds = [1, 2]", "[search.space] seeds is not a field of a run."),
        ("method.temperature = { low = 3, high = 3 }", "low = 3, high = 3 is no range."),
        ("method.temperature = { low = 0, high = 3, log = true }", "log needs low > 0."),
        ("method.temperature = { low = 1 }", "temperature] lacks the option 'high'."),
        ("method.temperature = { low = '1', high = 3 }", 'temperature] low = "1": should be a valid'),
        ("method.temperature = { low = 1, high = inf }", "high = inf: should be a finite number"),
        (
            "optimizer.momentum = { low = 0, high = 0.9, logg = true }",
            "has no option 'logg'. // did you mean 'log'",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(bench, line: str, said: str) -> None:
    assert said in bench.mistake(f"{BASE}[search.space]\n{line}")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("search = 3", "[search] is not a table."),
        ("[search]", "[search.space] is empty."),
        ("[search]\nspace = 3", "[search] space = 3 is not a table."),
        ("[search.space]\nmethod = ['kd']\n[search]\ntrails = 3", "did you mean 'trials'?"),
        ("[search]\nspace.method = ['kd']\ntrials = 0", "[search] trials = 0: should be greater than 0"),
        ("[search]\nspace.method = ['kd']\nsampler = 'grid'", "should be 'tpe', 'random' or 'cmaes'"),
        ("[search]\nspace.method = ['kd']\nmetric = 'best'", "should be 'val' or 'test'"),
    ],
)
def test_the_options_of_a_search_are_checked(bench, table: str, said: str) -> None:
    assert said in bench.mistake(BASE + table)


def test_mistakes_of_a_search_and_of_its_sections_are_told_together(bench) -> None:
    text = f"{BASE}optimizer.lr = 1\n[search]\ntrails = 3\nspace.student = ['resnet9']"
    said = bench.mistakes(text)
    assert len(said) == 3
    assert ["trails" in said[0], "resnet9" in said[1], "'lr'" in said[2]] == [True, True, True]


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        ("optimizer.learning_rate = {}\n", "needs two ranges or more"),
        ("optimizer.learning_rate = {}\noptimizer.nesterov = [true, false]\n", "does not choose from lists"),
    ],
)
def test_cmaes_is_refused_where_it_cannot_search(bench, space: str, complaint: str) -> None:
    base = 'extends = "simkd"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'
    with pytest.raises(RecipeError, match=complaint):
        bench.recipe(f"{base}[search]\nsampler = 'cmaes'\n[search.space]\n{space}")
