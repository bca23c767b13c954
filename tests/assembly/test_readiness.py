from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.assembly import readiness
from kdctl.assembly.data import DataLibrary
from kdctl.assembly.run_context import TeacherCache
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, UsageError

RecipeWriter = Callable[..., Path]


@pytest.fixture
def _said_nothing_yet() -> Iterator[None]:
    readiness._say_once.cache_clear()
    yield
    readiness._say_once.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is fine on a GPU")
def test_a_teacher_in_fp16_is_refused_on_a_cpu_before_anything_runs(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe("engine.teacher_precision = 'fp16'")
    with pytest.raises(UsageError, match=r"'fp16' needs a GPU") as caught:
        workflows.train(path, workspace)
    assert "engine.teacher_precision=bf16" in caught.value.hint
    assert workspace.store.runs() == []


@pytest.mark.usefixtures("_said_nothing_yet")
def test_a_device_without_bf16_is_warned_of_once(
    workspace: Workspace,
    recipe: RecipeWriter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = workflows.plan_training(recipe("engine.student_precision = 'bf16'"), workspace).runs
    for fast, said in ((None, 0), (True, 0), (False, 1), (False, 1)):
        monkeypatch.setattr(readiness, "has_fast_bf16", lambda _device, fast=fast: fast)
        readiness.require_ready(planned, workspace)
        assert caplog.text.count("-o engine.student_precision=fp32") == said


@pytest.mark.usefixtures("_said_nothing_yet")
def test_in_fp32_nobody_asks_for_bf16(
    workspace: Workspace,
    recipe: RecipeWriter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "has_fast_bf16", lambda _device: False)
    readiness.require_ready(workflows.plan_training(recipe(""), workspace).runs, workspace)
    assert caplog.text == ""


@pytest.mark.usefixtures("_said_nothing_yet")
@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("kd", {}, ""),
        ("kd", {"mixup": "0.2"}, "batches are mixed (data.mixup, data.cutmix)"),
        ("kd", {"augmentation": "random-resized-crop"}, "training images of 'digits' are made one by one"),
        ("zskt", {}, "'zskt' makes its images"),
    ],
)
def test_a_teacher_cache_that_keeps_nothing_is_said_before_anything_runs(
    workspace: Workspace,
    recipe: RecipeWriter,
    caplog: pytest.LogCaptureFixture,
    method: str,
    options: dict[str, str],
    why: str,
) -> None:
    changed = [f"data.{name}={value}" for name, value in options.items()]
    opened = workflows.open_recipe(recipe(f"method = '{method}'"), changed, [])
    planned = workflows.plan_training(opened, workspace).runs
    readiness.require_ready(planned, workspace)
    assert "teacher-cache" not in caplog.text
    with workflows.open_workspace(workspace.runs, workspace.library, teacher_cache="on") as asked:
        for _ in range(2):  # a sweep asks for each batch of its runs
            readiness.require_ready(planned, asked)
    assert caplog.text.count(f"--teacher-cache on keeps nothing where {why}") == bool(why)


@pytest.mark.usefixtures("_said_nothing_yet")
@pytest.mark.parametrize(
    ("words", "cache", "problem"),
    [
        ((), "on", "--teacher-cache on: teachers see several batches at once"),
        (("data.augmentation=random-resized-crop",), "auto", "needs training images in memory"),
        (("data.augmentation=random-resized-crop",), "on", "needs training images in memory"),
        (("data.mixup=0.2",), "on", ""),
        ((), "auto", ""),
    ],
)
def test_teachers_that_cannot_look_ahead_are_refused_before_anything_runs(
    workspace: Workspace, recipe: RecipeWriter, words: tuple[str, ...], cache: TeacherCache, problem: str
) -> None:
    given = ["engine.teacher_lookahead=4", *words]
    opened = workflows.open_recipe(recipe("method = 'kd'"), given, [])
    planned = workflows.plan_training(opened, workspace).runs
    with workflows.open_workspace(workspace.runs, workspace.library, teacher_cache=cache) as asked:
        if not problem:
            readiness.require_ready(planned, asked)
            return
        for look in (readiness.require_ready, readiness.require_teacher_batches):
            with pytest.raises(KdctlError, match=problem):
                look(planned, asked)


@pytest.mark.usefixtures("_said_nothing_yet")
def test_a_teacher_cache_is_judged_by_the_plan_where_data_are_not_here(
    workspace: Workspace,
    recipe: RecipeWriter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = workflows.plan_training(
        workflows.open_recipe(recipe("method = 'kd'"), ["data.mixup=0.2"], []), workspace
    ).runs

    def refuse(*_: object) -> None:
        raise KdctlError("there is no such folder.", "unpack it.")

    monkeypatch.setattr(DataLibrary, "select_for", refuse)
    with workflows.open_workspace(workspace.runs, workspace.library, teacher_cache="on") as asked:
        readiness.require_teacher_batches(planned, asked)
    assert "--teacher-cache on keeps nothing where batches are mixed" in caplog.text
