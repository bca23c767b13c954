from __future__ import annotations

import pytest

BASE = 'data = "cifar100"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'
RATES = "[grid]\noptimizer.learning_rate = [0.1, 0.2]"


@pytest.mark.parametrize("word", ["0.1", "3", "fast"])
def test_an_override_of_what_the_grid_sets_everywhere_is_refused(bench, word: str) -> None:
    said = bench.mistake(BASE + RATES, f"optimizer.learning_rate={word}")
    assert "[grid] sets optimizer.learning_rate in every configuration" in said
    assert "-o 'grid.optimizer.learning_rate=[" in said


def test_what_the_hint_says_holds_the_override_alone(bench) -> None:
    plans = bench.plans(BASE + RATES, "grid.optimizer.learning_rate=[3]")
    assert [plan.optimizer.options.learning_rate for plan in plans] == [3]


@pytest.mark.parametrize("axis", ["method", "method.name"])
@pytest.mark.parametrize("field", ["method", "method.name"])
def test_a_name_is_the_same_field_in_both_spellings(bench, axis: str, field: str) -> None:
    said = bench.mistake(f"{BASE}[grid]\n{axis} = ['kd', 'simkd']", f"{field}=ce")
    assert f"sets {field} in every configuration" in said


def test_an_axis_among_several_blocks_is_to_be_changed_in_the_recipe(bench) -> None:
    text = f"{BASE}[[grid]]\nmethod = ['kd']\n[[grid]]\nmethod = ['simkd']"
    assert "change method in the recipe's [grid]" in bench.mistake(text, "method=ce")


def test_an_option_of_a_method_that_the_grid_replaces_is_refused(bench) -> None:
    text = f"{BASE}method = 'simkd'\n[grid]\nmethod = ['kd', 'dkd']"
    said = bench.mistake(text, "method.temperature=2")
    assert "-o method.temperature=2 would change nothing: [grid] always picks another method" in said


def test_an_override_that_some_configurations_have_is_taken(bench) -> None:
    text = f"{BASE}method = 'kd'\n[grid]\nmethod = ['ce', 'kd']"
    assert [plan.method.tree().get("temperature") for plan in bench.plans(text, "method.temperature=2")] == [
        None,
        2,
    ]


def test_a_bare_name_with_options_on_the_grid_is_taken(bench) -> None:
    plans = bench.plans(f"{BASE}[grid]\nmethod.temperature = [2, 3]", "method=kd")
    assert [(plan.method.name, plan.method.options.temperature) for plan in plans] == [("kd", 2), ("kd", 3)]


def test_what_a_search_chooses_cannot_be_overridden(bench) -> None:
    text = f"{BASE}method = 'kd'\n[search.space]\nmethod.temperature = {{ low = 1, high = 8 }}"
    assert "[search.space] sets method.temperature" in bench.mistake(text, "method.temperature=2")
    assert bench.recipe(text, "method.kd_weight=2").search is not None


@pytest.mark.parametrize("word", ["teacher=vgg13", "teacher.name=vgg13", "teacher.schedule.epochs=3"])
def test_a_teacher_that_no_method_listens_to_is_refused(bench, word: str) -> None:
    said = bench.mistake(f"{BASE}method = 'ce'", word)
    assert f"-o {word.partition('=')[0]}=" in said
    assert "would change nothing: 'ce' takes no teacher" in said
    assert len(bench.plans(f"{BASE}[grid]\nmethod = ['ce', 'kd']", word)) == 2


def test_a_number_for_a_section_is_not_blamed_on_the_grid(bench) -> None:
    said = bench.mistake(BASE + RATES, "optimizer=3")
    assert "-o optimizer=3: optimizer is a name, or a table of options." in said


def test_headings_are_never_overruled(bench) -> None:
    assert len(bench.plans(BASE + RATES, "seeds=2", "name=other")) == 4


def test_a_value_that_is_no_number_is_not_taken_for_one_that_was_lost(bench) -> None:
    said = bench.mistake(f"{BASE}[grid]\nmethod = ['kd', 'ce']", "optimizer.learning_rate=nan")
    assert said.startswith("-o: [optimizer] learning_rate = nan: should be a finite number.")


@pytest.mark.parametrize("space", ["[search]\ntrials = 3", "[grid]\ntogether = 3"])
def test_a_space_with_mistakes_overrules_nothing(bench, space: str) -> None:
    said = bench.mistakes(f"{BASE}{space}", "data.batch_size=32")
    assert not any("would change nothing" in mistake for mistake in said), said
