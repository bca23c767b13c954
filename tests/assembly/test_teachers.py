"""Which runs may teach others: those that ship the student as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import RecipeError
from kdctl.records import RunState

RecipeWriter = Callable[..., Path]

JOINT = "method = {name = 'simkd', ce_weight = 1.0, ships = 'own'}"


def test_a_student_with_its_own_classifier_can_teach_whatever_method_trained_it(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    (joint,) = workflows.train(recipe(JOINT), workspace)
    file = workspace.folder(joint.key).path / "last.pt"
    for teacher in (f"{{run = '{joint.key}'}}", f"{{checkpoint = '{file}'}}"):
        (taught,) = workflows.train(recipe("method = 'kd'", teacher=f"teacher = {teacher}"), workspace)
        assert taught.state is RunState.FINISHED
        assert taught.plan["teachers"][0]["name"] == "resnet3"


def test_a_student_with_another_classifier_cannot(workspace: Workspace, recipe: RecipeWriter) -> None:
    (reused,) = workflows.train(recipe("method = 'simkd'"), workspace)
    file = workspace.folder(reused.key).path / "last.pt"
    for teacher in (f"{{run = '{reused.key}'}}", f"{{checkpoint = '{file}'}}"):
        with pytest.raises(RecipeError, match="trained by 'simkd', which ships more than a plain resnet3"):
            workflows.plan_training(recipe("method = 'kd'", teacher=f"teacher = {teacher}"), workspace)
