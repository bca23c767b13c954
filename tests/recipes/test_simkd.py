"""The two tables of the SimKD paper, and a recipe for each of their columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdctl.report.reported import read_reported
from kdctl.workflows.sweep_plan import SweepPlan

Plan = Callable[..., SweepPlan]


def pairs(plan: SweepPlan) -> list[tuple[str, str]]:
    """Return teacher and student of each pair of a plan, in order."""
    return list(dict.fromkeys((run.teachers[0].name, run.student.name) for run in plan.runs if run.teachers))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.extended
def test_a_table_has_seven_pairs_with_nine_methods_and_the_students_alone(number: int, plan: Plan) -> None:
    table = plan(f"simkd/table{number}.toml")
    assert len(pairs(table)) == 7
    students = {student for _, student in pairs(table)}
    configurations = {run.configuration for run in table.runs}
    assert len(configurations) == 7 * 9 + len(students)
    assert len(read_reported(table.recipe.tree)) == len(configurations)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.extended
def test_every_column_has_a_recipe_of_the_same_runs(number: int, plan: Plan) -> None:
    table = plan(f"simkd/table{number}.toml")
    keys: set[str] = set()
    for teacher, student in pairs(table):
        column = plan(f"simkd/{teacher}_{student}.toml")
        assert pairs(column) == [(teacher, student)]
        keys |= {run.key for run in column.runs}
    assert keys == {run.key for run in table.runs}


@pytest.mark.extended
def test_the_paper_trains_four_trials_of_240_epochs(plan: Plan) -> None:
    table = plan("simkd/table2.toml")
    assert table.recipe.seeds == (0, 1, 2, 3)
    assert {run.epochs for run in table.runs} == {240}
