from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kdctl import workflows
from kdctl.records import RunState
from kdctl.store.leases import Owner

Kdctl = Callable[..., Any]


def test_where_nothing_is_in_training_that_is_said(kdctl: Kdctl, swept: str) -> None:
    assert kdctl("watch --once").out == "nothing is in training; 4 finished\n"
    kdctl("watch --once --sweep tinny").refused("no sweep 'tinny'", code=1)


def test_a_run_in_training_is_shown_with_place_loss_accuracy_and_time_left(
    kdctl: Kdctl, recipe: Callable[..., str], tmp_path: Path
) -> None:
    name = recipe("[method]\nname = 'ce'\n")
    kdctl(f"train {name} -o schedule.epochs=4 --threads 1 --quiet")
    with workflows.open_workspace(tmp_path / "runs") as workspace:
        (done,) = workspace.store.runs()
        epochs = workspace.store.epochs(done.key)
        plan = workspace.folder(done.key).plan()
        other = dataclasses.replace(plan, key="f" * 16, seed=7)
        workspace.store.add_runs([other])
        workspace.store.claim(other.key, Owner.here(), lease_seconds=60)
        assert "waits" in kdctl("watch --once").out, "it is claimed, but nobody has built it"
        half = dataclasses.replace(epochs[0], seconds=1000.0, ended="2026-01-31T12:00:00.000+00:00")
        workspace.store.record_epoch(other.key, half)  # now, as a run is that was resumed long after it
        seen = workflows.activity(workspace, now=datetime.now(UTC) + timedelta(seconds=500))
    (item,) = seen.running
    assert (item.num_epochs, item.position) == (4, pytest.approx(1.5, abs=0.1))
    assert item.seconds_left == pytest.approx(2500, abs=100)
    assert seen.counts == {RunState.RUNNING: 1, RunState.FINISHED: 1}
    with workflows.open_workspace(tmp_path / "runs") as workspace:
        workspace.store.record_epoch(other.key, dataclasses.replace(half, ended="yesterday"))
        assert workflows.activity(workspace).running[0].position == 1.0, "somebody else wrote the time"
    shown = kdctl("watch --once").out
    assert "ffffff" in shown
    assert f"{half.test.top1:.2f} %" in shown
    assert "1 running, 1 finished" in shown
    (row,) = [line for line in kdctl("list runs").out.splitlines() if line.startswith("ffff")]
    assert f"{half.test.top1:.2f}" in row, "the accuracy so far"
