from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.execution.gang_schedule import gangs_of, makespan
from kdctl.recipe.plan import RunPlan

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd", "simkd", "dkd", "dist"]
"""


@pytest.fixture
def plans(
    workspace: Workspace, recipe: Callable[..., Path]
) -> tuple[tuple[RunPlan, ...], tuple[RunPlan, ...]]:
    """A teacher, and a student alone followed by four that the teacher teaches."""
    plan = workflows.plan_sweep(recipe(GRID), workspace)
    return plan.teachers, plan.runs


def test_gangs_are_small_enough_for_every_slot_and_teachers_come_first(
    plans: tuple[tuple[RunPlan, ...], tuple[RunPlan, ...]],
) -> None:
    teachers, runs = plans
    sizes = {
        slots: [len(gang) for gang in gangs_of(teachers, (*teachers, *runs), gang_size=8, slots=slots)]
        for slots in (1, 2, 6)
    }
    assert sizes == {1: [1, 1, 4], 2: [1, 1, 3, 1], 6: [1] * 6}
    assert gangs_of(teachers, runs, gang_size=8, slots=1)[0] == list(teachers)


def test_one_slot_takes_as_long_as_all_gangs_together(
    plans: tuple[tuple[RunPlan, ...], tuple[RunPlan, ...]],
) -> None:
    teachers, runs = plans
    gangs = gangs_of(teachers, runs, gang_size=8, slots=1)
    assert makespan(gangs, [5.0, 2.0, 7.0], slots=1) == 14.0
    assert makespan([], [], slots=3) == 0.0


def test_students_wait_for_their_teacher_and_others_start_beside_it(
    plans: tuple[tuple[RunPlan, ...], tuple[RunPlan, ...]],
) -> None:
    teachers, runs = plans
    gangs = gangs_of(teachers, runs, gang_size=1, slots=6)
    assert makespan(gangs, [5.0, 9.0, 1.0, 1.0, 1.0, 1.0], slots=2) == 9.0  # 5 + 4 beside 9
    assert makespan(gangs, [5.0, 2.0, 1.0, 1.0, 1.0, 1.0], slots=2) == 7.0  # two by two behind 5
    assert makespan(gangs, [5.0, 2.0, 1.0, 1.0, 1.0, 1.0], slots=6) == 6.0
    assert makespan(gangs[1:], [2.0, 1.0, 1.0, 1.0, 1.0], slots=6) == 2.0  # the teacher is there
