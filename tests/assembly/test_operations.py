"""What a run computes for each image, known before it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.data import Sizes
from kdctl.assembly.operations import ImageOperations, same_operations
from kdctl.assembly.planning import Planner
from kdctl.assembly.workspace import Workspace
from kdctl.recipe.plan import RunPlan

RecipeWriter = Callable[..., Path]


def operations(planner: Planner, run: RunPlan) -> ImageOperations:
    return planner.structures.operations(run, planner.counts(run))


def test_what_a_method_keeps_of_each_image_counts(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = "method = {name = 'crd', embedding_width = 4}\n[grid]\ndata.samples_per_class = [8, 16]\n"
    plan = workflows.plan_sweep(recipe(body), workspace)
    counted = [
        (plan.planner.counts(run).num_train, operations(plan.planner, run).training) for run in plan.runs
    ]
    (few, less), (many, more) = counted
    # Two banks of 4 features an image; a product is two operations, and counts three times as it learns.
    assert more - less == pytest.approx(2 * 4 * 2 * 3 * (many - few))


@pytest.mark.parametrize(
    "methods",
    [
        "{ name = 'ft', rate = 0.5 }, { name = 'ft', rate = 2.0 }",
        "{ name = 'simkd', reuse_from = 1.0 }, { name = 'simkd', reuse_from = 0.34 }",
    ],
    ids=["widths", "depths"],
)
def test_runs_that_differ_in_a_width_or_a_depth_are_counted_each_for_itself(
    workspace: Workspace, recipe: RecipeWriter, methods: str
) -> None:
    pair = {"student": "student = 'resnet8'", "teacher": "teacher = 'resnet14'", "data": "data = 'digits'"}
    pair["schedule"] = "schedule = { name = 'constant', epochs = 2 }"
    plan = workflows.plan_sweep(recipe(f"[grid]\nmethod = [{methods}]", **pair), workspace)
    first, second = (operations(plan.planner, run).training for run in plan.runs)
    assert max(first, second) > 1.1 * min(first, second)
    weighed = recipe("method = 'kd'\n[grid]\nmethod.kd_weight = [0.5, 2.0]\nmethod.temperature = [1.0, 4.0]")
    runs = workflows.plan_sweep(weighed, workspace).runs
    assert len({same_operations(run, Sizes(num_classes=10, input_size=8)) for run in runs}) == 1


BACKWARD = """
import torch
from kdctl.losses.supervision import label_loss
from kdctl.protocols.distiller import Distiller, Losses, methods

@methods.register("backward")
class Backward(Distiller):
    '''Asks how the logits change with the last map.'''
    num_teachers = (0, 0)
    def __init__(self, config, setup):
        super().__init__(config, setup)
        self.student_taps = (setup.student.final_tap,)
    def losses(self, step):
        logits = step.student.require_logits()
        (tap,) = step.student.taps.values()
        (slope,) = torch.autograd.grad(logits.sum(), tap, create_graph=True)
        return Losses(task=label_loss(logits, step.batch), transfer={"slope": slope.square().mean()},
            logits=logits)
"""


def test_losses_that_go_back_into_the_student_are_counted_with_it(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "backward.py").write_text(BACKWARD)
    plain = workflows.plan_sweep(recipe("method = 'ce'", teacher=""), workspace)
    path = recipe("method = 'backward'\nplugins = ['backward.py']", teacher="")
    plan = workflows.plan_sweep(path, workspace)
    alone, counted = operations(plain.planner, plain.runs[0]), operations(plan.planner, plan.runs[0])
    assert counted.student == alone.student
    assert counted.evaluation == alone.evaluation
    assert counted.training > alone.training
