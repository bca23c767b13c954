from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdctl.errors import (
    KdctlError,
    Mistake,
    RecipeError,
    UsageError,
    nearest_name,
    suggestion,
)


def mistake(number: int) -> Mistake:
    return Mistake(problem=f"problem {number}", hint=f"hint {number}")


def test_an_error_is_a_problem_with_a_hint() -> None:
    error = KdctlError("x.toml: it is broken.", "mend it.")
    assert (error.problem, error.hint, str(error)) == ("x.toml: it is broken.", "mend it.", error.problem)
    assert error.mistakes == (Mistake(problem="x.toml: it is broken.", hint="mend it."),)


def test_failures_exit_with_1_and_wrong_usage_with_2() -> None:
    assert KdctlError("p", "h").exit_code == 1
    assert UsageError("p", "h").exit_code == 2
    assert RecipeError([mistake(1)]).exit_code == 2


def test_a_recipe_error_tells_every_mistake_once_and_in_order() -> None:
    error = RecipeError([mistake(2), mistake(1), mistake(2)])
    assert error.mistakes == (mistake(2), mistake(1))
    assert error.problem == "problem 2\nproblem 1"
    assert error.hint == "hint 2\nhint 1"


def test_a_recipe_error_without_mistakes_is_a_bug() -> None:
    with pytest.raises(ValueError, match="no error"):
        RecipeError([])


@pytest.mark.parametrize(
    "error", [KdctlError("p", "h"), UsageError("p", "h"), RecipeError([mistake(1), mistake(2)])]
)
def test_errors_survive_the_way_between_processes(error: KdctlError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (back.mistakes, str(back)) == (error.mistakes, str(error))


@given(st.lists(st.text(min_size=1), min_size=1, unique_by=str.casefold))
def test_a_known_name_is_the_nearest_to_itself(names: list[str]) -> None:
    assert all(nearest_name(name, names) == name for name in names)


def test_the_nearest_name_is_found_in_any_case() -> None:
    assert nearest_name("Temprature", ["temperature", "kd_weight"]) == "temperature"
    assert nearest_name("RESNET8X4", ["resnet8x4", "resnet8"]) == "resnet8x4"
    assert nearest_name("xyz", ["temperature", "kd_weight"]) is None
    assert nearest_name("xyz", []) is None
    many = [f"resnet{number}" for number in range(200)]
    assert "resnet18," in suggestion("RESNET18", many, "Models of timm")


def test_a_suggestion_lists_all_names_sorted() -> None:
    assert suggestion("kdd", ["simkd", "kd"], "Methods") == "did you mean 'kd'? Methods: kd, simkd."
    assert suggestion("zzz", ["simkd", "kd"], "Methods") == "Methods: kd, simkd."
    assert suggestion("zzz", [], "Methods") == "There are no methods."


def test_a_suggestion_among_many_names_says_where_to_see_them() -> None:
    many = [f"resnet{depth}" for depth in range(8, 50)]
    assert suggestion("resnet9x", many, "Models") == "did you mean 'resnet9'? All 42: kdctl list models."
    assert suggestion("zzz", many, "Models").startswith("Models: resnet10, resnet11, ")


def test_a_suggestion_among_thousands_lists_only_those_alike() -> None:
    many = [f"net_{number}" for number in range(1000)] + ["resnet18"]
    hint = suggestion("resnet1800", many, "Models of timm")
    assert hint.startswith("Models of timm, of 1,001 those alike: resnet18")
    assert len(hint) < 200
    assert suggestion("@", many, "Models of timm").startswith(
        "Models of timm, of 1,001 none is alike; the first: "
    )
