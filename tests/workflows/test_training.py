from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_trainings import StopAfter, weights

from kdctl import workflows
from kdctl.assembly.failure import RunsFailedError
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, RecipeError, UsageError
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunState

RecipeWriter = Callable[..., Path]


class Keys(Silent):
    """Remembers which runs were started."""

    def __init__(self) -> None:
        self.started_keys: list[str] = []
        self.epochs: list[tuple[str, int]] = []

    def started(self, plans: list[RunPlan]) -> None:  # type: ignore[override]
        self.started_keys.extend(plan.key for plan in plans)

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        self.epochs.append((plan.key, result.epoch))


def test_a_plan_is_carried_out_as_it_was_shown(workspace: Workspace, recipe: RecipeWriter) -> None:
    path = recipe("method = 'ce'", teacher="")
    plan = workflows.plan_training(path, workspace)
    path.unlink()
    assert [run.key for run in workflows.train(plan, workspace)] == [run.key for run in plan.runs]


def test_a_student_alone_is_trained_once(workspace: Workspace, recipe: RecipeWriter) -> None:
    path = recipe("method = 'ce'", teacher="")
    (run,) = workflows.train(path, workspace)
    assert run.state is RunState.FINISHED
    assert run.result is not None
    assert run.result.facts.teacher_parameters is None
    again = Keys()
    assert workflows.train(path, workspace, progress=again) == [run]
    assert again.started_keys == []


@pytest.mark.extended
def test_a_teacher_named_by_architecture_is_planned_and_trained_first(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe()
    plan = workflows.plan_training(path, workspace)
    (teacher,) = plan.teachers
    assert teacher.student.name == "resnet4"
    assert plan.states == {}
    seen = Keys()
    (run,) = workflows.train(path, workspace, progress=seen)
    assert seen.started_keys == [teacher.key, run.key]
    assert run.plan["teachers"] == [{"name": "resnet4", "numerics": 2, "run": teacher.key}]
    assert workflows.plan_training(path, workspace).states == dict.fromkeys(
        [teacher.key, run.key], RunState.FINISHED
    )


def test_another_student_reuses_the_finished_teacher(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.train(recipe(), workspace)
    seen = Keys()
    workflows.train(recipe("method = 'kd'"), workspace, progress=seen)
    assert len(seen.started_keys) == 1
    assert [run.attempts for run in workspace.store.runs()] == [1, 1, 1]


def test_a_teacher_may_be_a_run_or_a_checkpoint_file(workspace: Workspace, recipe: RecipeWriter) -> None:
    (teacher,) = workflows.train(recipe("method = 'ce'", student="student = 'resnet4'"), workspace)
    by_run = recipe("method = 'kd'", teacher=f"teacher = {{run = '{teacher.key[:6]}'}}")
    (taught,) = workflows.train(by_run, workspace)
    assert taught.plan["teachers"] == [{"name": "resnet4", "numerics": 2, "run": teacher.key}]
    assert taught.result is not None
    assert teacher.result is not None
    assert taught.result.teacher_test_top1 == teacher.result.selected["last"].test.top1
    file = workspace.folder(teacher.key).path / "last.pt"
    by_file = recipe("method = 'kd'", teacher=f"teacher = {{checkpoint = '{file}'}}")
    (other,) = workflows.train(by_file, workspace)
    assert set(other.plan["teachers"][0]) == {"name", "numerics", "checkpoint_sha256"}
    ours, theirs = weights(workspace, taught.key), weights(workspace, other.key)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_is_not_finished_cannot_teach(workspace: Workspace, recipe: RecipeWriter) -> None:
    alone = recipe("method = 'ce'", student="student = 'resnet4'")
    (teacher,) = workflows.train(alone, workspace, stop=lambda: True)
    assert teacher.state is RunState.PLANNED
    with pytest.raises(KdctlError, match="it cannot teach yet"):
        workflows.train(recipe(teacher=f"teacher = {{run = '{teacher.key}'}}"), workspace)


def test_a_stopped_run_goes_on_and_ends_bit_identical(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path = recipe("method = 'ce'", teacher="", schedule="schedule = {name = 'cosine', epochs = 3}")
    stop = StopAfter(3)  # two steps an epoch: in the middle of the second
    (stopped,) = workflows.train(path, workspace, progress=stop, stop=stop)
    assert (stopped.state, stopped.epochs) == (RunState.INTERRUPTED, 1)
    assert "epoch 2" in stopped.reason
    seen = Keys()
    (finished,) = workflows.train(path, workspace, progress=seen)
    assert seen.epochs == [(finished.key, 2), (finished.key, 3)]
    assert (finished.state, finished.attempts) == (RunState.FINISHED, 2)
    with workflows.open_workspace(tmp_path / "undisturbed", num_threads=1) as other:
        (undisturbed,) = workflows.train(path, other)
        ours, theirs = weights(workspace, finished.key), weights(other, undisturbed.key)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_teacher_of_other_data_teaches_where_that_is_meant(
    workspace: Workspace, recipe: RecipeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    other = "data = {name = 'digits', size = 16, samples_per_class = 8}"
    (teacher,) = workflows.train(
        recipe("method = 'ce'", student="student = 'resnet4'", data=other), workspace
    )
    assert caplog.text == ""
    named = f"teacher = {{run = '{teacher.key}'%s}}"
    with pytest.raises(RecipeError, match="trained on other images or labels of 'digits'"):
        workflows.train(recipe("method = 'kd'", teacher=named % ""), workspace)
    workflows.train(recipe("method = 'kd'", teacher=named % ", other_data = true"), workspace)
    assert "the teacher resnet4 was trained on other data" in caplog.text


def test_a_recipe_with_a_grid_is_refused(workspace: Workspace, recipe: RecipeWriter) -> None:
    with pytest.raises(UsageError, match="search space") as refusal:
        workflows.train(recipe("[grid]\nmethod = ['kd']"), workspace)
    assert "kdctl sweep" in refusal.value.hint


def test_missing_data_leave_no_run_behind(workspace: Workspace, recipe: RecipeWriter) -> None:
    path = recipe(data="data = {name = 'imagefolder', path = 'pictures'}")
    with pytest.raises(KdctlError, match="pictures"):
        workflows.train(path, workspace)
    assert workspace.store.runs() == []


def test_data_that_turn_out_too_small_are_refused_before_any_run(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe(data="data = {name = 'digits', size = 8, num_classes = 99}")
    with pytest.raises(KdctlError, match="num_classes = 99"):
        workflows.train(path, workspace)
    assert workspace.store.runs() == []


RAISING = """
from kdctl.protocols.distiller import Distiller, methods

@methods.register("stumbling")
class Stumbling(Distiller):
    \"\"\"Stumbles.\"\"\"
    num_teachers = (0, 1)

    def losses(self, step):
        return {step.progress.item(): 0}["nothing"]
"""


def test_an_error_in_a_plug_in_fails_the_run_and_says_where(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    plugin = tmp_path / "stumbling.py"
    plugin.write_text(RAISING)
    path = recipe("method = 'stumbling'", plugins="plugins = ['stumbling.py']", teacher="")
    with pytest.raises(RunsFailedError) as failure:
        workflows.train(path, workspace)
    assert f"KeyError: 'nothing' ({plugin}, line 10)" in failure.value.problem
    assert "traceback.txt" in failure.value.hint
    (run,) = workspace.store.runs()
    assert (run.state, run.attempts) == (RunState.FAILED, 1)
    assert "KeyError" in (workspace.folder(run.key).path / "traceback.txt").read_text()


@pytest.mark.extended
def test_a_failed_teacher_fails_its_students_with_the_reason(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    (tmp_path / "huge.py").write_text(HUGE)
    path = recipe(plugins="plugins = ['huge.py']", teacher="teacher = {name = 'huge'}")
    with pytest.raises(RunsFailedError) as failure:
        workflows.train(path, workspace)
    assert "its teacher, run" in failure.value.problem
    assert "GiB" in failure.value.problem
    assert [run.state for run in workspace.store.runs()] == [RunState.FAILED, RunState.FAILED]


HUGE = """
from torch import nn
from kdctl.protocols.backbone import Backbone, Link, models

@models.register("huge")
def huge(num_classes: int, input_size: int) -> Backbone:
    \"\"\"More weights than any machine can hold.\"\"\"
    maps = Link(name="maps", module=nn.Conv2d(3, 10**7, 3), shape=(10**7, input_size, input_size))
    vector = Link(name="pooled", module=nn.Linear(10**7, 10**7), shape=(10**7,))
    head = nn.Linear(10**7, num_classes)
    return Backbone([maps, vector], classifier=head, stage_taps=["maps"], input_size=input_size)
"""


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("{name = 'fitnet', hint_share = 0.5}", [{"fitnet"}, {"task", "kd"}]),
        ("{name = 'sequential', feature = 'student'}", [{"l2"}, {"task"}]),
        ("'ab'", [{"ab"}, {"task"}]),
        ("'fsp'", [{"fsp"}, {"task"}]),
        ("'ft'", [{"paraphrase"}, {"task", "ft"}]),
    ],
)
def test_each_phase_trains_on_the_losses_of_its_own(
    workspace: Workspace, recipe: RecipeWriter, method: str, terms: list[set[str]]
) -> None:
    length = "schedule = {name = 'constant', epochs = 2}"
    teacher = "teacher = {name = 'resnet4', schedule.epochs = 1}"
    path = recipe(
        method=f"method = {method}", schedule=length, teacher=teacher, student="student = 'resnet4'"
    )
    (run,) = workflows.train(path, workspace)
    epochs = workspace.store.epochs(run.key)
    assert len({epoch.phase for epoch in epochs}) == 2
    assert [set(epoch.train_terms) for epoch in epochs] == terms
