from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, RecipeError
from kdctl.records import RunState

RecipeWriter = Callable[..., Path]

FEWER = "data = {name = 'digits', size = 8, samples_per_class = 8, num_classes = 5}"


def states(workspace: Workspace) -> list[RunState]:
    return [run.state for run in workspace.store.runs()]


def test_a_teacher_of_other_classes_is_refused(workspace: Workspace, recipe: RecipeWriter) -> None:
    (teacher,) = workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    file = workspace.folder(teacher.key).path / "last.pt"
    for named in (f"run = '{teacher.key}'", f"checkpoint = '{file}'"):
        with pytest.raises(RecipeError, match="10 classes of 'digits', the student sees 5") as caught:
            workflows.train(recipe(teacher=f"teacher = {{{named}}}", data=FEWER), workspace)
        assert "data.num_classes" in caught.value.hint
    assert states(workspace) == [RunState.FINISHED]


def test_weights_for_another_head_are_refused(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (teacher,) = workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    content = torch.load(workspace.folder(teacher.key).path / "last.pt", weights_only=True)
    weight = content["weights"]["classifier.weight"]
    heads = {
        "wider.pt": torch.cat([weight, weight], dim=1),
        "fewer.pt": weight[:7],
        "none.pt": None,
    }
    for name, head in heads.items():
        weights = {key: value for key, value in content["weights"].items() if key != "classifier.weight"}
        if head is not None:
            weights["classifier.weight"] = head
        torch.save({**content, "weights": weights}, tmp_path / name)
        with pytest.raises(KdctlError, match=rf"{name}.* another architecture: .*classifier"):
            workflows.train(recipe(teacher=f"teacher = {{checkpoint = '{tmp_path / name}'}}"), workspace)
    assert states(workspace) == [RunState.FINISHED]
