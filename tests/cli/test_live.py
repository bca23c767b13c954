from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.cli.live import Display, Lines, display
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunState, SplitMetrics


@pytest.fixture
def plan(recipe: Callable[..., str], tmp_path: Path) -> RunPlan:
    name = recipe("[method]\nname = 'ce'\n[optimizer]\nlearning_rate = 0.05\n")
    with workflows.open_for_planning(tmp_path / "runs") as workspace:
        (plan,) = workflows.plan_training(tmp_path / name, workspace).runs
    return plan


def result(epoch: int) -> EpochResult:
    return EpochResult(
        epoch=epoch,
        learning_rate=0.05,
        train_loss=1.25,
        train_terms={"task": 1.25},
        train_top1=50.0,
        test=SplitMetrics(top1=61.5, top5=99.0, loss=1.0),
        val=None,
        seconds=1.0,
        images_per_second=80.0,
    )


def test_lines_tell_a_run_from_start_to_end(plan: RunPlan, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.planned([plan], settled=2, later=0)
    lines.started([plan])
    lines.epoch(plan, result(1))
    lines.ended(plan, RunState.FAILED, None, "unlucky")
    lines.waiting([plan, plan])
    told = capsys.readouterr().err.splitlines()
    key = plan.key[:8]
    assert told[0] == f"{key}  start  resnet3 · ce · seed 0 · lr 0.05"
    assert told[1].startswith(f"{key}  epoch 1/1  loss 1.25  test 61.50 %  80 images/s  ")
    assert told[2:] == [f"{key}  failed: unlucky", "waiting for 2 runs in training by another process"]


def test_quiet_shows_nothing(plan: RunPlan, capsys: pytest.CaptureFixture[str]) -> None:
    with display(quiet=True) as silent:
        silent.planned([plan], settled=0, later=0)
        silent.started([plan])
        silent.stepped(plan.key, 0.5)
        silent.epoch(plan, result(1))
        silent.ended(plan, RunState.FINISHED, None, "")
    assert type(silent) is Display
    assert capsys.readouterr() == ("", "")
