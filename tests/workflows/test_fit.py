from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.errors import KdctlError, RecipeError
from kdctl.records import RunState
from kdctl.workflows.workspace import Workspace

RecipeWriter = Callable[..., Path]

FEWER = "data = {name = 'digits', size = 8, samples_per_class = 8, num_classes = 5}"


def states(workspace: Workspace) -> list[RunState]:
    return [run.state for run in workspace.store.runs()]


@pytest.mark.parametrize("part", ["student", "teacher"])
def test_a_model_that_cannot_take_the_images_is_refused(
    workspace: Workspace, recipe: RecipeWriter, part: str
) -> None:
    with pytest.raises(RecipeError, match="images of 8x8 pixels are too small for MobileNetV2") as caught:
        workflows.train(recipe(**{part: f"{part} = 'mobilenetv2'"}), workspace)
    assert "larger images" in caught.value.hint
    assert states(workspace) == []


def test_one_model_of_a_grid_that_does_not_fit_stops_all_before_the_first_is_trained(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe(
        "[grid]\nstudent = ['resnet3', 'mobilenetv2', 'mobilenetv2x2']", student="method = 'ce'", teacher=""
    )
    with pytest.raises(RecipeError) as caught:
        workflows.sweep(path, workspace)
    assert len(caught.value.mistakes) == 1  # both say the same
    assert states(workspace) == []


def test_a_teacher_of_other_classes_is_refused(workspace: Workspace, recipe: RecipeWriter) -> None:
    (teacher,) = workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    file = workspace.folder(teacher.key).path / "last.pt"
    for named in (f"run = '{teacher.key}'", f"checkpoint = '{file}'"):
        with pytest.raises(RecipeError, match="tells 10 classes apart, the data have 5") as caught:
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
