from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kdctl.recipe.layers import Layer, When, flat, look_up, merge, nested, same

WORDS = st.sampled_from(["a", "b", "c", "d"])
LEAVES = st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), st.lists(st.integers()))
TREES = st.recursive(
    st.dictionaries(WORDS, LEAVES, min_size=1),
    lambda inner: st.dictionaries(WORDS, st.one_of(LEAVES, inner), min_size=1),
    max_leaves=8,
)


def layers(*values: dict[str, Any]) -> list[Layer]:
    return [Layer(source=f"layer {number}", values=tree) for number, tree in enumerate(values)]


def merged(*values: dict[str, Any]) -> dict[str, Any]:
    return merge(layers(*values)).tree


@given(TREES)
def test_one_layer_is_kept_as_it_is(tree: dict[str, Any]) -> None:
    assert merged(tree) == tree


@given(TREES, TREES)
def test_a_layer_laid_twice_changes_nothing(low: dict[str, Any], high: dict[str, Any]) -> None:
    assert merged(low, high, high) == merged(low, high)


@given(TREES, TREES)
def test_every_leaf_of_the_top_layer_holds(low: dict[str, Any], high: dict[str, Any]) -> None:
    tree = merged(low, high)
    assert all(look_up(tree, dotted) == value for dotted, value in flat(high).items())


@given(TREES, TREES, TREES)
def test_merging_is_associative(first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]) -> None:
    assert merged(merged(first, second), third) == merged(first, second, third)


@given(TREES, TREES)
def test_layers_are_not_changed_by_merging(low: dict[str, Any], high: dict[str, Any]) -> None:
    before = repr((low, high))
    merged(low, high)
    assert repr((low, high)) == before


@given(TREES)
def test_nested_takes_back_what_flat_did(tree: dict[str, Any]) -> None:
    assert nested(flat(tree)) == tree


@given(st.dictionaries(st.sampled_from(["a.b", "a.c.d", "e", "f.g", "a.c.h"]), st.integers()))
def test_flat_takes_back_what_nested_did(fields: dict[str, Any]) -> None:
    assert flat(nested(fields)) == fields


def test_a_name_and_its_options_meet_in_either_order() -> None:
    wanted = {"method": {"name": "kd", "temperature": 2}}
    assert nested({"method": "kd", "method.temperature": 2}) == wanted
    assert nested({"method.temperature": 2, "method": "kd"}) == wanted


def test_later_fields_win_over_the_tables_before_them() -> None:
    assert nested({"method.temperature": 2, "method": {"name": "kd", "temperature": 3}}) == {
        "method": {"name": "kd", "temperature": 3}
    }


def test_another_name_leaves_the_options_of_the_first_behind() -> None:
    tree = merged(
        {"method": {"name": "kd", "temperature": 2}}, {"method": {"kd_weight": 3}}, {"method": "simkd"}
    )
    assert tree == {"method": "simkd"}


def test_the_same_name_in_another_spelling_keeps_the_options() -> None:
    tree = merged({"student": {"name": "resnet8x4", "width": 2}}, {"student": "ResNet-8x4"})
    assert tree == {"student": {"name": "ResNet-8x4", "width": 2}}


def test_options_of_a_name_return_with_the_name() -> None:
    tree = merged({"method": {"name": "kd", "temperature": 2}}, {"method": "simkd"}, {"method": "kd"})
    assert tree == {"method": {"name": "kd", "temperature": 2}}


def test_another_nested_name_leaves_only_its_own_options_behind() -> None:
    low = {"method": {"name": "simkd", "weight": 1, "projector": {"name": "bottleneck", "reduction": 4}}}
    assert merged(low, {"method": {"projector": "linear"}}) == {
        "method": {"name": "simkd", "weight": 1, "projector": {"name": "linear"}}
    }


def test_a_run_takes_the_place_of_a_teacher_given_by_name() -> None:
    low = {"teacher": {"name": "resnet20", "schedule": {"epochs": 8}}}
    assert merged(low, {"teacher": {"run": "abcd"}}) == {"teacher": {"run": "abcd"}}
    assert merged(low, {"teacher": {"seed": 3}})["teacher"] == {**low["teacher"], "seed": 3}


def test_lists_are_replaced_and_not_joined() -> None:
    assert merged({"seeds": [0, 1, 2]}, {"seeds": [5]}) == {"seeds": [5]}


def test_each_field_knows_the_layer_that_set_it_last() -> None:
    result = merge(
        layers({"optimizer": {"name": "sgd", "momentum": 0.9}}, {"optimizer": {"learning_rate": 1}})
    )
    assert result.origin("optimizer.momentum") == "layer 0"
    assert result.origin("optimizer.learning_rate") == "layer 1"
    assert result.origin("optimizer.unheard.of") == "layer 1"
    assert result.origin("student.name") is None


def when(field: str, values: tuple[Any, ...], tree: dict[str, Any]) -> tuple[When, ...]:
    return (When(conditions={field: values}, values=tree),)


def test_a_when_block_stands_above_its_file_and_below_the_next() -> None:
    whens = when("student.name", ("mobilenetv2",), {"optimizer": {"learning_rate": 0.01}})
    low = Layer(source="preset", values={"optimizer": {"learning_rate": 0.05}}, whens=whens)
    student = Layer(source="recipe", values={"student": "MobileNetV2"})
    explicit = Layer(source="-o", values={"optimizer": {"learning_rate": 0.2}})
    assert merge([low, student]).tree["optimizer"] == {"learning_rate": 0.01}
    assert merge([low, student]).origin("optimizer.learning_rate") == "preset"
    assert merge([low, student, explicit]).tree["optimizer"] == {"learning_rate": 0.2}


def test_all_conditions_of_a_when_block_must_hold() -> None:
    block = When(conditions={"student.name": ("a",), "method.name": ("kd", "ce")}, values={"x": 1})
    low = Layer(source="preset", values={}, whens=(block,))
    assert "x" in merge([low, *layers({"student": "a", "method": "ce"})]).tree
    assert "x" not in merge([low, *layers({"student": "a", "method": "simkd"})]).tree
    assert "x" not in merge([low, *layers({"student": "a"})]).tree


def test_a_when_block_for_a_name_brings_that_names_options_only() -> None:
    whens = when("method.name", ("kd",), {"method": {"temperature": 4.0}})
    low = Layer(source="preset", values={"method": {"name": "simkd", "weight": 2}}, whens=whens)
    assert merge([low, *layers({"method": "kd"})]).tree["method"] == {"name": "kd", "temperature": 4.0}
    assert merge([low]).tree["method"] == {"name": "simkd", "weight": 2}


def test_a_when_block_goes_with_the_name_that_its_options_belong_to() -> None:
    whens = when("student.name", ("a",), {"optimizer": {"learning_rate": 0.01}, "schedule": {"epochs": 3}})
    low = Layer(source="preset", values={"optimizer": {"name": "sgd", "learning_rate": 0.05}}, whens=whens)
    student = Layer(source="recipe", values={"student": "a"})
    other = Layer(source="-o", values={"optimizer": {"name": "adamw"}})
    assert merge([low, student]).tree["optimizer"] == {"name": "sgd", "learning_rate": 0.01}
    assert merge([low, student, other]).tree["optimizer"] == {"name": "adamw"}
    assert merge([low, student, other]).tree["schedule"] == {"epochs": 3}


def test_a_when_block_adds_to_what_an_earlier_one_chose() -> None:
    choose = when("student.name", ("a",), {"optimizer": {"name": "adamw", "learning_rate": 0.001}})
    add = when("student.name", ("a",), {"optimizer": {"weight_decay": 0.05}})
    low = Layer(source="preset", values={"optimizer": {"name": "sgd"}}, whens=(*choose, *add))
    student = Layer(source="recipe", values={"student": "a"})
    both = {"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.05}
    assert merge([low, student]).tree["optimizer"] == both
    back = Layer(source="-o", values={"optimizer": {"name": "sgd"}}, whens=add)
    assert merge([low, student, back]).tree["optimizer"] == {"name": "sgd", "weight_decay": 0.05}


def test_a_when_block_that_names_a_choice_means_just_that_one() -> None:
    table = {"optimizer": {"name": "adamw", "learning_rate": 0.001}}
    low = Layer(source="preset", values={"optimizer": "sgd"}, whens=when("student.name", ("a",), table))
    assert (
        merge([low, *layers({"student": "a", "optimizer": "adamw"})]).tree["optimizer"] == table["optimizer"]
    )


def test_names_are_the_same_without_case_and_dashes_and_numbers_by_value() -> None:
    assert same("ResNet-8x4", "resnet8x4")
    assert same(4, 4.0)
    assert not same("resnet8x4", "resnet8")


def test_fields_are_looked_up_through_tables_lists_and_bare_names() -> None:
    tree = {"student": "resnet8", "teacher": [{"name": "a"}, {"name": "b"}], "optimizer": {"momentum": 0}}
    assert look_up(tree, "student.name") == "resnet8"
    assert look_up(tree, "teacher.1.name") == "b"
    assert look_up(tree, "teacher.2.name") is None
    assert look_up(tree, "teacher.².name") is None  # a digit to Python, and no number
    assert look_up(tree, "optimizer.momentum") == 0
    assert look_up(tree, "optimizer.momentum.x") is None
