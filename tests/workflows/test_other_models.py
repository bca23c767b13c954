"""The other models of a run, such as an adapted teacher: evaluated, exported and teaching by name."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.records import Selection, StoredRun
from kdctl.report.measures import find_measures, value_of
from kdctl.workflows.loaded_model import load_model

RecipeWriter = Callable[..., Path]

METHOD = "method = {name = 'atsc', teacher_rate_scale = 0.1}"


@pytest.fixture
def adapted(workspace: Workspace, recipe: RecipeWriter) -> StoredRun:
    """A student of ATSC, two epochs long, with its adapted teacher."""
    path = recipe(method=METHOD, schedule="schedule = {name = 'constant', epochs = 2}")
    (run,) = workflows.train(path, workspace)
    return run


@pytest.mark.extended
def test_an_adapted_teacher_is_evaluated_by_name_as_it_was_in_training(
    workspace: Workspace, adapted: StoredRun
) -> None:
    evaluation = workflows.evaluate(adapted.key, workspace, model="teacher")
    last = workspace.store.epochs(adapted.key)[-1]
    assert evaluation.metrics == last.models["teacher"].test
    assert adapted.result is not None
    assert evaluation.parameters == adapted.result.facts.other_parameters["teacher"]
    assert (evaluation.selection, evaluation.model) == ("last.teacher", "teacher")
    shipped = workflows.evaluate(adapted.key, workspace)
    assert shipped.metrics == last.test
    assert {item.model for item in workspace.store.evaluations(adapted.key)} == {"", "teacher"}
    best = workflows.evaluate(adapted.key, workspace, model="teacher", selection=Selection.BEST_TEST)
    assert best.metrics == adapted.result.selected["best-test"].models["teacher"].test


@pytest.mark.extended
def test_a_checkpoint_file_says_which_model_it_is(workspace: Workspace, adapted: StoredRun) -> None:
    file = workspace.folder(adapted.key).path / "last.teacher.pt"
    assert workflows.evaluate(file, workspace) == workflows.evaluate(adapted.key, workspace, model="teacher")


@pytest.mark.extended
def test_an_adapted_teacher_is_exported_by_name(
    workspace: Workspace, adapted: StoredRun, tmp_path: Path
) -> None:
    workflows.export_model(adapted.key, tmp_path / "teacher.pt2", workspace, model="teacher")
    program = torch.export.load(BytesIO((tmp_path / "teacher.pt2").read_bytes())).module()
    loaded = load_model(adapted.key, workspace, part="teacher")
    images = next(loaded.images("test").images())
    with torch.no_grad():
        torch.testing.assert_close(program(images), loaded.model.eval()(images))


def test_a_model_that_is_not_there_is_told_with_those_that_are(
    workspace: Workspace, adapted: StoredRun
) -> None:
    with pytest.raises(KdctlError, match="no model 'peer'") as refused:
        workflows.evaluate(adapted.key, workspace, model="peer")
    assert "teacher" in refused.value.hint


@pytest.mark.parametrize("method", ["kd", "simkd"])
@pytest.mark.extended
def test_an_adapted_teacher_teaches_others_by_name(
    workspace: Workspace, recipe: RecipeWriter, adapted: StoredRun, method: str
) -> None:
    teacher = f"teacher = {{run = '{adapted.key}', model = 'teacher'}}"
    (run,) = workflows.train(recipe(method=f"method = '{method}'", teacher=teacher), workspace)
    shipped = f"teacher = {{run = '{adapted.key}'}}"
    (other,) = workflows.train(recipe(method=f"method = '{method}'", teacher=shipped), workspace)
    assert run.key != other.key
    last = workspace.store.epochs(adapted.key)[-1]
    assert run.result is not None
    assert run.result.teacher_test_top1 == last.models["teacher"].test.top1
    assert workflows.evaluate(run.key, workspace).teacher_agreement is not None


def test_a_report_tells_how_an_adapted_teacher_did_before_and_after(
    workspace: Workspace, adapted: StoredRun
) -> None:
    before, after = find_measures(["teacher.before", "teacher.top1"])
    (teacher,) = (run for run in workspace.store.runs() if run.key != adapted.key)
    assert teacher.result is not None
    assert (
        value_of(adapted, before, Selection.LAST, None)
        == teacher.result.selected[Selection.LAST.value].test.top1
    )
    last = workspace.store.epochs(adapted.key)[-1]
    assert value_of(adapted, after, Selection.LAST, None) == last.models["teacher"].test.top1
