from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.assembly import readiness
from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError

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
