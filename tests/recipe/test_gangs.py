from __future__ import annotations

import dataclasses

import pytest

from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.gangs import form_gangs
from kdctl.recipe.plan import RunPlan

BASE = 'extends = "simkd"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'


def sizes(plans: list[RunPlan], size: int = 8) -> list[int]:
    return [len(gang) for gang in form_gangs(plans, size)]


def test_what_can_share_batches_and_teacher_trains_together(bench) -> None:
    axes = (
        "method = ['kd', 'simkd']",
        "optimizer.learning_rate = [0.1, 0.01]",
        "student = ['vgg8', 'vgg11']",
    )
    plans = bench.plans("\n".join([BASE, "[grid]", *axes]))
    assert len(plans) == 8
    assert form_gangs(plans) == [plans]


@pytest.mark.parametrize(
    "axis",
    [
        "data.batch_size = [32, 64]",
        "schedule.epochs = [2, 4]",
        "engine.student_precision = ['bf16', 'fp32']",
        "teacher = ['resnet110', 'resnet32x4']",
        "method = ['ce', 'simkd']",
    ],
)
def test_what_cannot_share_trains_apart(bench, axis: str) -> None:
    assert sizes(bench.plans(f"{BASE}grid.{axis}")) == [1, 1]


def test_runs_that_make_their_images_share_steps_with_each_other_alone(bench) -> None:
    plan = bench.plan(f"{BASE}method = 'kd'")

    def making(**options: int) -> RunPlan:
        method = dataclasses.replace(plan.method, options=GeneratedImages(**options))
        return dataclasses.replace(plan, method=method)

    some = [plan, making(), making(batch_size=64), making(steps_per_epoch=7), making()]
    assert form_gangs(some) == [[some[0]], [some[1], some[4]], [some[2]], [some[3]]]


def test_each_seed_has_a_gang_of_its_own(bench) -> None:
    plans = bench.plans(f"seeds = 3\n{BASE}grid.method = ['kd', 'simkd']")
    assert form_gangs(plans) == [plans[:2], plans[2:4], plans[4:]]


def test_gangs_are_cut_to_size_in_order(bench) -> None:
    plans = bench.plans(f"{BASE}grid.optimizer.momentum = [0.1, 0.2, 0.3, 0.4, 0.5]")
    assert form_gangs(plans, 2) == [plans[:2], plans[2:4], plans[4:]]
    assert sizes(plans, 1) == [1] * 5
    assert sizes([], 3) == []


def test_the_same_teacher_and_data_may_lie_in_two_places(bench) -> None:
    text = """
        student = "vgg8"
        teacher.checkpoint = "{0}.pt"
        data = {{ name = "imagefolder", path = "{0}" }}
    """
    assert sizes([bench.plan(text.format(place)) for place in ("here", "there")]) == [2]
