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


def test_members_wait_for_those_of_their_gang_that_were_stopped_on_their_way(
    recipe: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = recipe("[method]\nname = 'kd'\ntemperature = 2.0\n")
    with workflows.open_for_planning(tmp_path / "runs") as workspace:
        (new,) = workflows.plan_training(workflows.open_recipe(tmp_path / name, [], []), workspace).runs
        hotter = workflows.open_recipe(tmp_path / name, ["method.temperature=4.0"], [])
        (stopped,) = workflows.plan_training(hotter, workspace).runs
    lines = Lines()
    lines.expect([new, stopped], {new.key: RunState.PLANNED, stopped.key: RunState.INTERRUPTED})
    lines.planned([new, stopped], settled=0, later=0)
    lines.started([new, stopped])
    lines.stepped(stopped.key, 0.5)
    lines.stepped(new.key, 0.1)
    lines.stepped(new.key, 0.2)
    told = [line.split("  ") for line in capsys.readouterr().err.splitlines()]
    assert [(key, does) for key, does, _ in told] == [
        (new.key[:8], "waits"),
        (stopped.key[:8], "resumed"),
        (new.key[:8], "start"),
    ]
    assert [what.rpartition(" · ")[2] for _, _, what in told] == [f"temperature {t}" for t in (2, 4, 2)]


def test_a_run_keeps_its_name_when_the_others_are_done(
    recipe: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = recipe("[grid]\nmethod.name = ['kd']\nmethod.temperature = [1.0, 2.0]\n")
    with workflows.open_for_planning(tmp_path / "runs") as workspace:
        plans = workflows.plan_sweep(workflows.open_recipe(tmp_path / name, [], []), workspace).runs
    for does in ({}, {plans[1].key: RunState.INTERRUPTED}):
        lines = Lines()
        lines.expect(plans, does)
        lines.planned(plans[1:], settled=1, later=0)
        lines.started(plans[1:])
        assert capsys.readouterr().err.endswith(" · temperature 2\n")


def test_quiet_shows_nothing(plan: RunPlan, capsys: pytest.CaptureFixture[str]) -> None:
    with display(quiet=True) as silent:
        silent.planned([plan], settled=0, later=0)
        silent.started([plan])
        silent.stepped(plan.key, 0.5)
        silent.epoch(plan, result(1))
        silent.ended(plan, RunState.FINISHED, None, "")
    assert type(silent) is Display
    assert capsys.readouterr() == ("", "")
