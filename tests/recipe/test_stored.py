from __future__ import annotations

import json

import pytest

from kdctl.errors import RecipeError, UsageError
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.stored import read_component, read_plan

BASE = 'extends = "simkd"\nstudent = "resnet8x4"\n'


def read_back(bench, plan: RunPlan) -> RunPlan:
    return read_plan(json.loads(json.dumps(plan.tree())), bench.context.catalog)


@pytest.mark.parametrize(
    "text",
    [
        f'{BASE}teacher = "resnet32x4"',
        f'{BASE}teacher.run = "0123"\nmethod = "kd"\nseeds = [3]',
        f'{BASE}teacher.checkpoint = "a.pt"\nengine.student_precision = "bf16"\nschedule = "cosine"',
        f'{BASE}method = "ce"\noptimizer = "adamw"\nprotocol = "mine"',
        'student = "vgg8"\ndata = { name = "imagefolder", path = "photos", num_classes = 3 }',
    ],
)
def test_a_plan_survives_its_trip_through_json(bench, text: str) -> None:
    plan = bench.plan(text)
    back = read_back(bench, plan)
    assert back == plan
    assert (back.key, back.configuration, back.tree()) == (plan.key, plan.configuration, plan.tree())


@pytest.mark.parametrize("change", [{"schema": 2}, {"numerics": 0}, {"schema": None}])
def test_a_plan_of_another_version_is_refused(bench, change: dict[str, int]) -> None:
    tree = {**bench.plan(f'{BASE}method = "ce"').tree(), **change}
    with pytest.raises(UsageError, match=r"the plan has format .*, this kdctl reads 1\.4\."):
        read_plan(tree, bench.context.catalog)


def test_a_plan_that_names_what_is_not_here_is_refused(bench) -> None:
    tree = bench.plan(f'{BASE}method = "ce"').tree()
    tree["method"] = {"name": "gone"}
    tree["optimizer"] = {"name": "sgd", "plugin_sha256": "abc"}
    with pytest.raises(RecipeError) as caught:
        read_plan(tree, bench.context.catalog)
    assert [mistake.problem for mistake in caught.value.mistakes] == [
        "stored plan: [method] there is no method 'gone'.",
        "stored plan: [optimizer] wants another version of the plug-in that brings 'sgd'.",
    ]


def test_one_plugin_of_a_plan_can_be_read_whatever_its_version(bench) -> None:
    plan = bench.plan(f'{BASE}method = "ce"\noptimizer.momentum = 0.5')
    tree = {**plan.optimizer.tree(), "plugin_sha256": "another version"}
    assert read_component("optimizer", tree, bench.context.catalog) == plan.optimizer
    with pytest.raises(RecipeError, match="there is no optimizer 'gone'"):
        read_component("optimizer", {"name": "gone"}, bench.context.catalog)
