"""The optimizer that keeps two momenta apart, beside any method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_trainings import CountSteps

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.records import EpochResult, RunState

RecipeWriter = Callable[..., Path]

DOT = "optimizer = {name = 'dot', learning_rate = 0.1}"
TEACHER = "teacher = {name = 'resnet4', optimizer = {name = 'sgd'}}"
LONGER = "schedule = {name = 'cosine', epochs = 2}"


def told(result: EpochResult) -> object:
    """Return what does not depend on the time that an epoch took."""
    return result.train_terms, result.test


@pytest.mark.parametrize("method", ["kd", "simkd", "ce"])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path, method: str
) -> None:
    words = {"optimizer": DOT, "teacher": "" if method == "ce" else TEACHER, "schedule": LONGER}
    path = recipe(f"method = '{method}'", **words)
    if method != "ce":
        alone = {"student": "student = 'resnet4'", "optimizer": "optimizer = {name = 'sgd'}"}
        workflows.train(recipe("method = 'ce'", teacher="", schedule=LONGER, **alone), workspace)
    count = CountSteps()
    (stopped,) = workflows.train(path, workspace, progress=count, stop=lambda: count.steps == 3)
    assert (stopped.state, stopped.epochs) == (RunState.INTERRUPTED, 1)
    (resumed,) = workflows.train(path, workspace)
    with workflows.open_workspace(tmp_path / "other", tmp_path / "data", num_threads=1) as other:
        (whole,) = workflows.train(path, other)
        expected = [told(result) for result in other.store.epochs(whole.key)]
    assert resumed.key == whole.key
    assert [told(result) for result in workspace.store.epochs(resumed.key)] == expected


def test_batches_in_parts_are_refused_when_a_run_is_planned(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe("method = 'kd'\nengine.batch_parts = 2", optimizer=DOT)
    with pytest.raises(KdctlError, match="'dot' keeps the gradients of two losses apart"):
        workflows.plan_training(path, workspace)
