"""What a run computes for each image, known before it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace

RecipeWriter = Callable[..., Path]


def test_what_a_method_keeps_of_each_image_counts(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = "method = {name = 'crd', embedding_width = 4}\n[grid]\ndata.samples_per_class = [8, 16]\n"
    plan = workflows.plan_sweep(recipe(body), workspace)
    counted = [
        (plan.planner.counts(run).num_train, plan.planner.operations(run).training) for run in plan.runs
    ]
    (few, less), (many, more) = counted
    # Two banks of 4 features an image; a product is two operations, and counts three times as it learns.
    assert more - less == pytest.approx(2 * 4 * 2 * 3 * (many - few))


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
    alone, counted = plain.planner.operations(plain.runs[0]), plan.planner.operations(plan.runs[0])
    assert counted.student == alone.student
    assert counted.evaluation == alone.evaluation
    assert counted.training > alone.training
